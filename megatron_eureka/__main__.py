"""`python -m megatron_eureka`, the same as the console script `megatron-eureka`."""

from megatron_eureka.cli import main

if __name__ == "__main__":
    main()
