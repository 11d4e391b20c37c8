"""Qwen2.5-VL: a vision tower with windowed attention, and the Qwen2 decoder with positions of three axes."""

from functools import partial

from megatron_eureka.families.family import Family
from megatron_eureka.families.qwen2_5_vl.published import PUBLISHED
from megatron_eureka.families.qwen2_5_vl.sizes import read
from megatron_eureka.families.qwen2_5_vl.vllm_images import engine_images
from megatron_eureka.families.qwen2_5_vl.weights import rules
from megatron_eureka.families.unsupported import unsupported

QWEN2_5_VL = Family(
    name="qwen2_5_vl",
    title="Qwen2.5-VL",
    architecture="Qwen2_5_VLForConditionalGeneration",
    sizes=read,
    # The published files call the plain frequencies, split over time, height and width, "mrope".
    unsupported=partial(unsupported, plain_rope=("default", "mrope")),
    rules=rules,
    chunk="megatron_eureka.model.qwen2_5_vl:Qwen2_5_VL",
    transformers_class="transformers:Qwen2_5_VLForConditionalGeneration",
    vllm_class="vllm.model_executor.models.qwen2_5_vl:Qwen2_5_VLForConditionalGeneration",
    positions="megatron_eureka.families.qwen2_5_vl.positions:mrope_positions",
    published=PUBLISHED,
    # What transformers calls its one image processor; releases of early 2025 wrote names that are gone.
    image_processors=("Qwen2VLImageProcessor", "Qwen2VLImageProcessorFast", "Qwen2VLImageProcessorPil"),
    newer_prefixes=(("model.language_model.", "model."), ("model.visual.", "visual.")),
    engine_images=engine_images,
)
