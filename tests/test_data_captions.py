"""Captions: what stands beside a file, and what a model loaded from a folder says."""

from pathlib import Path

import pytest
import torch

from data import video
from data.captions import NO_CAPTION, Caption, Captioner, Part, caption_all, load_processor
from data.shots import Shot
from data.survey import survey
from data.video import write_video
from data.video_index import read_index

MARKS = ("<pad>", "<s>", "</s>", "<unk>", "<image>")
WORDS = ("a", "the", "red", "blue", "car", "dog", "runs", "on", "grass", "street", *MARKS, "USER:", "ASSISTANT:")
TEMPLATE = (
    "{% for message in messages %}USER: {% for part in message['content'] %}{% if part['type'] == 'image' %}<image> "
    "{% else %}{{ part['text'] }} {% endif %}{% endfor %}{% endfor %}ASSISTANT:"
)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LLaVA with random weights, on disk."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import (
        CLIPImageProcessorPil,
        CLIPVisionConfig,
        LlamaConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
        LlavaProcessor,
        PreTrainedTokenizerFast,
    )

    words = Tokenizer(models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    marks = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, **marks, additional_special_tokens=["<image>"])
    pictures = CLIPImageProcessorPil(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28})
    processor = LlavaProcessor(
        image_processor=pictures,
        tokenizer=tokenizer,
        patch_size=14,
        vision_feature_select_strategy="default",
        chat_template=TEMPLATE,
        image_token="<image>",
        num_additional_image_tokens=1,
    )
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    eye = CLIPVisionConfig(**sizes, image_size=28, patch_size=14)
    mouth = LlamaConfig(
        **sizes, vocab_size=len(tokenizer), num_key_value_heads=2, pad_token_id=10, bos_token_id=11, eos_token_id=12
    )
    whole = LlavaConfig(vision_config=eye, text_config=mouth, image_token_index=14, vision_feature_layer=-1)
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("model")
    LlavaForConditionalGeneration(whole).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def captioner(model: Path) -> Captioner:
    return Captioner(str(model), num_frames=3, max_tokens=8)


def test_a_model_says_something_the_same_each_time(captioner: Captioner) -> None:
    frames = torch.randint(0, 256, (3, 32, 48, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    said = captioner.caption(frames)
    assert said == captioner.caption(frames)
    assert 0 < len(said.split()) <= 8
    assert set(said.split()) <= set(WORDS)


def test_it_sees_the_part_and_what_it_shows(
    captioner: Captioner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three frames evenly spread over the second half, which is red, blue and green; the first is black."""
    colours = torch.tensor([[0, 0, 0], [255, 0, 0], [0, 0, 255], [0, 255, 0]], dtype=torch.uint8)
    frames = colours[[0] * 30 + [1] * 10 + [2] * 10 + [3] * 10][:, None, None].expand(-1, 32, 32, -1)
    write_video(tmp_path / "a.mp4", frames, 10)
    seen = []

    def caption(self: Captioner, frames: torch.Tensor) -> str:
        seen.append(frames.float().mean((1, 2)))
        return "colours"

    monkeypatch.setattr(Captioner, "caption", caption)
    assert captioner(Part(tmp_path / "a.mp4", 3.0, 3.0)) == Caption("colours")
    assert torch.allclose(seen[0], colours[1:].float(), atol=12)


def test_a_file_is_demuxed_once_for_all_its_shots(
    captioner: Captioner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_video(tmp_path / "a.mp4", torch.zeros(24, 32, 32, 3, dtype=torch.uint8), 8)
    demuxed = []
    monkeypatch.setattr(video, "read_index", lambda *given: demuxed.append(given) or read_index(*given))
    monkeypatch.setattr(Captioner, "caption", lambda self, frames: "black")
    assert [captioner(Part(tmp_path / "a.mp4", start, 1.0)).text for start in (0.0, 1.0, 2.0)] == ["black"] * 3
    assert len(demuxed) == 1


def test_a_damaged_file_gets_none_and_the_reason(captioner: Captioner, tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"no video")
    found = captioner(Part(tmp_path / "a.mp4", 0.0, 1.0))
    assert found.text == ""
    assert found.objection.startswith("not a video")


def test_a_model_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"--caption-model .*nowhere: no image-text-to-text model that loads") as error:
        load_processor(str(tmp_path / "nowhere"), "cpu")
    assert "\n" not in str(error.value)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there(model: Path) -> None:
    with pytest.raises(ValueError, match="--device cuda: PyTorch finds no such GPU here"):
        load_processor(str(model), "cuda")


def test_weights_that_are_cut_off(model: Path, tmp_path: Path) -> None:
    for path in model.iterdir():
        data = path.read_bytes()
        (tmp_path / path.name).write_bytes(data[: len(data) // 2] if path.suffix == ".safetensors" else data)
    with pytest.raises(ValueError, match="no image-text-to-text model that loads"):
        Captioner(str(tmp_path))


def test_a_model_that_cannot_chat(model: Path, tmp_path: Path) -> None:
    for path in model.iterdir():
        if "chat_template" not in path.name:
            (tmp_path / path.name).write_bytes(path.read_bytes())
    with pytest.raises(ValueError, match="has no chat template: choose an instruction-tuned model"):
        Captioner(str(tmp_path))


def test_the_model_is_asked_once_for_what_has_no_caption(model: Path, tmp_path: Path) -> None:
    noise = torch.randint(0, 256, (16, 32, 32, 3), dtype=torch.uint8)
    shot = Shot(0.0, 2.0, 16, 128.0, 60.0, 9.0, 9.0, "00" * 256)
    chosen = []
    for name in ("told", "untold", "gone", "garbled"):
        write_video(tmp_path / f"{name}.mp4", noise, 8)
        chosen.append((survey(tmp_path / f"{name}.mp4"), shot))
    (tmp_path / "told.txt").write_text("a red car")
    (tmp_path / "garbled.txt").write_bytes(b"caf\xe9")
    (tmp_path / "gone.mp4").unlink()
    known = tmp_path / "captions.jsonl"
    garbled = Caption(objection="its caption cannot be read: garbled.txt is no text in UTF-8")
    none = Caption(objection=NO_CAPTION)
    assert caption_all(chosen, None, "cpu", known, "local") == [Caption("a red car"), none, none, garbled]
    first = caption_all(chosen, str(model), "cpu", known, "local")
    assert first == [Caption("a red car"), first[1], Caption(objection="no such file"), garbled]
    assert first[1].text
    (tmp_path / "untold.mp4").unlink()
    assert caption_all(chosen, str(model), "cpu", known, "local") == first
    assert len(known.read_text().splitlines()) == 1
