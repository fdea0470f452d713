"""The prompts of a request at a time of its video, encoded once each."""

from collections.abc import Callable

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from video_dit.request import VideoRequest
from video_dit.sampling import Prompts
from video_dit.text import encode_prompts


def prompts_at(
    request: VideoRequest, tokenizer: PreTrainedTokenizerBase, encoder: PreTrainedModel
) -> Callable[[float], Prompts]:
    """A function of seconds in the whole video."""
    guided = request.sampling.guidance_scale != 1
    known: dict[tuple[str, ...], Prompts] = {}

    def at(seconds: float) -> Prompts:
        texts = tuple(schedule.at(seconds) for schedule in request.prompts)
        if texts not in known:
            found = request.encoded or Prompts(*encode_prompts(tokenizer, encoder, texts))
            if guided and found.negative_embeds is None:
                away = encode_prompts(tokenizer, encoder, request.negative_prompts)
                found = Prompts(found.embeds, found.segments, *away)
            known[texts] = found if guided else Prompts(found.embeds, found.segments)
        return known[texts]

    return at
