import pytest
import torch

from invariances import UserError
from invariances.training.classifier import Lesson, train_classifier


def test_classifier_learns_the_probabilities_it_is_told():
    bright = torch.tensor([0, 255] * 16, dtype=torch.uint8)
    pictures = bright.view(-1, 1, 1, 1).expand(-1, 3, 16, 16).contiguous()
    told = torch.where((bright == 0)[:, None], torch.tensor([0.8, 0.2, 0.0]), torch.tensor([0.1, 0.3, 0.6]))
    network = train_classifier(
        pictures, told, width=4, lesson=Lesson(300, 32, learning_rate=0.02), progress=False
    )
    with torch.inference_mode():
        answer = network(pictures.float() / 127.5 - 1).softmax(1)
    assert (answer - told).abs().max() < 0.05
    assert len(network.classes) == 3


@pytest.mark.parametrize("told", [torch.rand(4, 3), torch.ones(4, 2, dtype=torch.long)])
def test_probabilities_of_other_classes_get_a_sentence(told):
    with pytest.raises(UserError, match="one of each of 2 classes"):
        train_classifier(torch.zeros(4, 3, 16, 16, dtype=torch.uint8), told, classes=2, lesson=Lesson(1))
