"""One reading of a response, one comparison with a gold: for rewards, evaluations and checks of labels alike.

`read(response, question)` finds the answer, `equal(answer, gold, question)` compares it. A question is of a kind, such
as choice or integer; a label of training data answers `question_of(label)`.
"""

from megatron_eureka.answers.compare import equal
from megatron_eureka.answers.labels import check_label, label_kind, question_of
from megatron_eureka.answers.question import KINDS, Answer, Question
from megatron_eureka.answers.reading import read

__all__ = ["KINDS", "Answer", "Question", "check_label", "equal", "label_kind", "question_of", "read"]
