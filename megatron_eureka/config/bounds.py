"""Types of options with their bounds. Beyond a bound a number is a slip: the run would fail late, or do nothing."""

from typing import Annotated

from pydantic import Field

MAX_COUNT = 2**31 - 1  # libraries keep sizes, counts and seeds in 32 bits
MAX_PROCESSES = 1024  # no machine has more cores or GPUs; each one is a process or a thread
MAX_MIB = 2**24  # 16 TiB: no machine has more memory
MIN_WAIT_S, MAX_WAIT_S = 0.1, 7 * 24 * 3600.0  # a shorter limit ends everything, a longer one nothing
MIN_COLLECTIVE_S = 30  # ranks wait so long for each other in a sound run too, while one of them reads data

PositiveInt = Annotated[int, Field(gt=0, le=MAX_COUNT)]
NonNegativeInt = Annotated[int, Field(ge=0, le=MAX_COUNT)]
Processes = Annotated[int, Field(gt=0, le=MAX_PROCESSES)]
Mib = Annotated[int, Field(gt=0, le=MAX_MIB)]
Seconds = Annotated[float, Field(ge=MIN_WAIT_S, le=MAX_WAIT_S)]
CollectiveSeconds = Annotated[int, Field(ge=MIN_COLLECTIVE_S, le=int(MAX_WAIT_S))]
Sequences = Annotated[int, Field(gt=0, le=2**16)]
Temperature = Annotated[float, Field(ge=0.01, le=10.0)]  # vLLM draws below the first as at it; above, all is noise
Decay = Annotated[float, Field(ge=0.0, lt=1.0)]
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Share = Annotated[float, Field(gt=0.0, le=1.0)]
PositiveFloat = Annotated[float, Field(gt=0.0)]
NonNegativeFloat = Annotated[float, Field(ge=0.0)]
