#!/usr/bin/env bash
# Install the Debian packages that some tests need: SLURM and munge, for the launch scripts. Needs root.
# Tests that need them skip, with the reason, where they are missing. No service is started: the tests start their own
# daemons, under their own folders.
set -euo pipefail

PACKAGES=(slurm-wlm munge)
POLICY=/usr/sbin/policy-rc.d # asked before a service is started; 101 forbids it
KEPT=$POLICY.before_megatron_eureka

missing=()
for package in "${PACKAGES[@]}"; do
  status=$(dpkg-query --show --showformat='${Status}' "$package" 2> /dev/null || true)
  [ "$status" = "install ok installed" ] || missing+=("$package")
done
if [ "${#missing[@]}" -eq 0 ]; then
  echo "debian: ${PACKAGES[*]} are installed"
  exit 0
fi
if [ "$(id -u)" -ne 0 ]; then
  echo "error: installing ${missing[*]} needs root: run this script with sudo" >&2
  exit 1
fi

restore_policy() { # puts back what forbid_services took away; also after a run of this script that was killed
  if grep -qs '^# megatron_eureka' "$POLICY"; then rm "$POLICY"; fi
  if [ ! -e "$POLICY" ] && { [ -e "$KEPT" ] || [ -L "$KEPT" ]; }; then mv "$KEPT" "$POLICY"; fi
}

forbid_services() {
  local code=0
  if [ -x "$POLICY" ]; then "$POLICY" munge start > /dev/null 2>&1 || code=$?; fi
  if [ "$code" -eq 101 ]; then return; fi # as in most containers: the machine's own policy forbids it already
  if [ -e "$POLICY" ] || [ -L "$POLICY" ]; then mv "$POLICY" "$KEPT"; fi
  printf '#!/bin/sh\n# megatron_eureka: while packages are installed\nexit 101\n' > "$POLICY"
  chmod 755 "$POLICY"
}

restore_policy
trap restore_policy EXIT
forbid_services
echo "debian: installing ${missing[*]}"
export DEBIAN_FRONTEND=noninteractive
options=(-qq -o DPkg::Lock::Timeout=120 -o Acquire::http::Timeout=60 -o Acquire::Retries=2)
apt-get "${options[@]}" update
apt-get "${options[@]}" install -y --no-install-recommends "${missing[@]}" > /dev/null
