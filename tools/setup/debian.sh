#!/usr/bin/env bash
# Install the Debian packages that some tests need: SLURM and munge, for the launch scripts. Needs root.
# Tests that need them skip, with the reason, where they are missing.
set -euo pipefail

PACKAGES=(slurm-wlm munge)

missing=()
for package in "${PACKAGES[@]}"; do
  dpkg-query --show --showformat='${Status}' "$package" 2>/dev/null | grep -q 'install ok installed' || missing+=("$package")
done
if [ "${#missing[@]}" -eq 0 ]; then
  echo "debian: ${PACKAGES[*]} are installed"
  exit 0
fi
echo "debian: installing ${missing[*]}"
export DEBIAN_FRONTEND=noninteractive
# Services are not started: the tests start their own, under their own folders.
printf '#!/bin/sh\nexit 101\n' > /usr/sbin/policy-rc.d
chmod +x /usr/sbin/policy-rc.d
trap 'rm -f /usr/sbin/policy-rc.d' EXIT
apt-get update -qq
apt-get install -y -qq --no-install-recommends "${missing[@]}" > /dev/null
