"""The small CLIP that trains the text encoder."""

import math

import pytest
import torch
import torch.nn.functional as F

from minisd import TextEncoder, Tokenizer
from minisd.emoji.clip import CLIP, contrastive_loss
from minisd.emoji.data import EmojiData
from minisd.emoji.evaluation import retrieval
from minisd.files import assets_folder


@pytest.fixture(scope="module")
def clip() -> CLIP:
    torch.manual_seed(0)
    return CLIP(TextEncoder(vocab_size=50, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
                            num_attention_heads=2, projection_dim=16, bos_token_id=48, eos_token_id=49))


def tokens(*words: int, padding: int = 49) -> torch.Tensor:
    ids = [48, *words, 49]
    return torch.tensor([ids + [padding] * (77 - len(ids))])


def test_embeddings_are_unit_vectors_of_one_space(clip):
    text, images = clip.embed_text(tokens(1, 2, 3)), clip.embed_images(torch.rand(5, 3, 32, 32) * 2 - 1)
    assert text.shape == (1, 16)
    assert images.shape == (5, 16)
    torch.testing.assert_close(torch.cat([text, images]).norm(dim=1), torch.ones(6))


def test_text_is_read_at_the_first_end_token(clip):
    with torch.no_grad():
        alone, padded = clip.embed_text(tokens(1, 2)), clip.embed_text(tokens(1, 2, padding=0))
        among = clip.embed_text(torch.cat([tokens(1, 2), tokens(*range(1, 40))]))
        other = clip.embed_text(tokens(2, 1))
    torch.testing.assert_close(padded, alone)  # what comes after the end does not matter
    torch.testing.assert_close(among[:1], alone)  # nor do longer neighbours
    assert not torch.allclose(other, alone, atol=1e-3)  # but the order of words does


def test_loss_is_both_cross_entropies():
    torch.manual_seed(0)
    text, images = (F.normalize(torch.randn(4, 8), dim=1) for _ in range(2))
    logits = 10 * text @ images.T
    rows = -torch.stack([logits[i, i] - logits[i].logsumexp(0) for i in range(4)]).mean()
    columns = -torch.stack([logits[i, i] - logits[:, i].logsumexp(0) for i in range(4)]).mean()
    torch.testing.assert_close(contrastive_loss(text, images, torch.tensor(10.0)), (rows + columns) / 2)


def test_loss_without_knowledge_is_log_of_the_batch():
    same = torch.ones(16, 8) / math.sqrt(8)
    assert contrastive_loss(same, same, torch.tensor(5.0)).item() == pytest.approx(math.log(16))


def test_a_wrong_caption_is_one_more_answer_for_its_picture():
    torch.manual_seed(0)
    text, images, wrong = (F.normalize(torch.randn(4, 8), dim=1) for _ in range(3))
    logits = 10 * text @ images.T
    rows = -torch.stack([logits[i, i] - logits[i].logsumexp(0) for i in range(4)]).mean()
    answers = [torch.cat([logits[:, i], 10 * (images[i] @ wrong[i])[None]]) for i in range(4)]
    columns = -torch.stack([answers[i][i] - answers[i].logsumexp(0) for i in range(4)]).mean()
    torch.testing.assert_close(contrastive_loss(text, images, torch.tensor(10.0), wrong), (rows + columns) / 2)


def test_temperature_is_limited(clip):
    with torch.no_grad():
        before = clip.logit_scale.clone()
        assert clip.scale().item() == pytest.approx(1 / 0.07, rel=1e-5)
        clip.logit_scale.fill_(10.0)
        assert clip.scale().item() == 100
        clip.logit_scale.copy_(before)


def test_the_half_without_the_text_tower_is_saved_by_itself(clip, tmp_path):
    clip.save_pretrained(tmp_path)
    again = CLIP.from_pretrained(tmp_path, clip.text_encoder)
    assert again.state_dict().keys() == clip.state_dict().keys()
    assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in clip.state_dict().items())
    other = TextEncoder(vocab_size=50, hidden_size=64, intermediate_size=64, num_hidden_layers=1,
                        num_attention_heads=2, projection_dim=16, bos_token_id=48, eos_token_id=49)
    with pytest.raises(ValueError, match="size mismatch for text_projection"):
        CLIP.from_pretrained(tmp_path, other)


def test_the_one_that_ships_finds_pictures_by_their_captions():
    folder = assets_folder()
    tokenizer = Tokenizer.from_pretrained(folder / "mini/tokenizer")
    text_encoder = TextEncoder.from_pretrained(folder / "mini/text_encoder", dtype=torch.float32)
    clip = CLIP.from_pretrained(folder / "clip", text_encoder)
    assert retrieval(clip, tokenizer, EmojiData("core"), "heldout", count=64) > 0.8  # by chance: 0.016
