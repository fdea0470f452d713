"""Language models of some thousand weights, on disk, that have learnt to say one thing or nothing at all."""

from collections.abc import Mapping
from pathlib import Path

import torch

TEMPLATE = "{% for message in messages %}USER: {{ message['content'] }} {% endfor %}ASSISTANT:"
NOTHING = {"a": "a"}
MARKS = ("<pad>", "<s>", "</s>", "<unk>")


def save_writer(
    folder: Path, kind: str, answers: Mapping[str, str] = NOTHING, steps: int = 0, places: int = 2048
) -> None:
    """A "causal" model, one with a "chat" template or a "seq2seq" one, that takes so many steps to learn what to answer
    to each question."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import (
        LlamaConfig,
        LlamaForCausalLM,
        PreTrainedTokenizerFast,
        T5Config,
        T5ForConditionalGeneration,
    )

    said = " ".join(text for pair in answers.items() for text in pair).split()
    words = dict.fromkeys((*MARKS, "USER:", "ASSISTANT:", *said))
    whole = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="<unk>"))
    whole.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    marks = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=whole, **marks)
    if kind == "chat":
        tokenizer.chat_template = TEMPLATE
        answers = {f"USER: {asked} ASSISTANT:": answer for asked, answer in answers.items()}
    torch.manual_seed(0)
    sizes = {"vocab_size": len(tokenizer), "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    if kind == "seq2seq":
        shape = {"d_model": 32, "d_kv": 16, "d_ff": 64, "num_layers": 1, "num_heads": 2, "decoder_start_token_id": 0}
        model = T5ForConditionalGeneration(T5Config(**sizes, **shape, dropout_rate=0.0))
    else:
        shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
        model = LlamaForCausalLM(LlamaConfig(**sizes, **shape, max_position_embeddings=places))
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(steps):
        optimizer.zero_grad()
        for asked, answer in answers.items():
            question = torch.tensor([tokenizer(asked)["input_ids"]])
            labels = torch.tensor([[*tokenizer(answer)["input_ids"], 2]])
            if kind == "seq2seq":
                loss = model(input_ids=question, labels=labels).loss
            else:
                unasked = torch.cat((torch.full_like(question, -100), labels), 1)
                loss = model(input_ids=torch.cat((question, labels), 1), labels=unasked).loss
            loss.backward()
        optimizer.step()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
