"""Tokens of the chat template that the families here speak (ChatML), and of images in it.

A data set is read before anybody has named a model, so these are not a family's own.
"""

END_OF_TURN = "<|im_end|>"
# A text that holds one would become turns and images of its own.
CONTROL_TOKENS = (
    *("<|im_start|>", END_OF_TURN, "<|endoftext|>", "<|image_pad|>", "<|video_pad|>"),
    *("<|vision_start|>", "<|vision_end|>", "<|vision_pad|>"),
)
