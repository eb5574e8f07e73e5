"""Folders of Hugging Face with ``--model hf``; skipped where transformers (peft) is not installed."""

import json

import numpy as np
import pytest
import torch
from saddlescope.analysis.checkpoints.analysis_inputs import open_checkpoint
from saddlescope.analysis.checkpoints.checkpoint_flags import Given
from saddlescope.analysis.checkpoints.discovery import find_checkpoints
from saddlescope.analysis.checkpoints.user_code import SubjectError
from saddlescope.analysis.checkpoints.weights import CheckpointError
from saddlescope.analysis.hessian.operator import HessianOperator

transformers = pytest.importorskip("transformers")

DATA = """
import torch
from saddlescope.analysis.samples.samples import Samples

def texts():
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(1, 50, (12, 7), generator=generator)
    return Samples.from_batches([{"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": torch.arange(12) % 3}])
"""


@pytest.fixture
def bert():
    config = transformers.BertConfig(
        vocab_size=50, hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16, num_labels=3,
        max_position_embeddings=16,
    )  # fmt: skip
    torch.manual_seed(0)
    return transformers.BertForSequenceClassification(config).eval()


@pytest.fixture
def given(tmp_path):
    (tmp_path / "texts.py").write_text(DATA)
    return Given(model="hf", data=f"{tmp_path / 'texts.py'}:texts")


def logits(subject, model):
    (batch,) = subject.samples.batches(12)
    inputs = {name: value for name, value in batch.items() if name != "labels"}
    with torch.no_grad():
        return model.eval()(**inputs).logits


@pytest.mark.parametrize("shards", [False, True])
def test_a_folder_gives_the_model_that_was_saved(shards, bert, given, tmp_path):
    folder = tmp_path / "run" / "checkpoint-500"
    bert.save_pretrained(folder, **({"max_shard_size": "2KB"} if shards else {}))
    assert (folder / "model.safetensors.index.json").exists() == shards
    assert find_checkpoints([str(tmp_path / "run")]) == [folder]
    subject = open_checkpoint(folder, given)
    assert type(subject.model) is type(bert)
    torch.testing.assert_close(logits(subject, subject.model), logits(subject, bert))
    v = torch.ones(HessianOperator(subject.model, subject.samples, subject.loss, params="classifier.*").size)
    assert torch.isfinite(HessianOperator(subject.model, subject.samples, subject.loss, params="classifier.*").matvec(v)).all()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"architectures": ["os"]}, "its architecture 'os' is none that transformers"),
        ({"architectures": ["AutoModel.from_pretrained"]}, "is none that transformers"),
        ({"architectures": None}, "names no architecture"),
        ({"hidden_size": 9}, "BertForSequenceClassification cannot be made of it"),
        ({"hidden_size": 16}, "other shape"),
        ({"num_hidden_layers": 1}, "not in the model"),
    ],
)
def test_a_configuration_of_another_model_is_refused_in_a_sentence(change, sentence, bert, given, tmp_path):
    bert.save_pretrained(tmp_path / "net")
    path = tmp_path / "net" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises((SubjectError, CheckpointError), match=sentence) as caught:
        open_checkpoint(tmp_path / "net", given)
    assert "\n" not in str(caught.value)


def test_a_damaged_configuration_and_none(bert, given, tmp_path):
    bert.save_pretrained(tmp_path / "net")
    for text in ("{", "[]"):
        (tmp_path / "net" / "config.json").write_text(text)
        with pytest.raises(SubjectError, match=r"config\.json: no"):
            open_checkpoint(tmp_path / "net", given)
    (tmp_path / "net" / "config.json").unlink()
    with pytest.raises(SubjectError, match=r"no config\.json in"):
        open_checkpoint(tmp_path / "net" / "model.safetensors", given)


def test_code_that_a_configuration_names_is_not_run(bert, given, tmp_path):
    bert.save_pretrained(tmp_path / "net")
    path = tmp_path / "net" / "config.json"
    (tmp_path / "net" / "theirs.py").write_text(f"open({str(tmp_path / 'owned')!r}, 'w')\n")
    code = {"auto_map": {"AutoModel": "theirs.Net", "AutoConfig": "theirs.Config"}, "_attn_implementation": "theirs/kernel"}
    path.write_text(json.dumps(json.loads(path.read_text()) | code))
    open_checkpoint(tmp_path / "net", given)
    assert not (tmp_path / "owned").exists()


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")  # of peft
def test_an_adapter_on_its_base(bert, given, tmp_path):
    peft = pytest.importorskip("peft")
    bert.save_pretrained(tmp_path / "base")
    config = peft.LoraConfig(r=2, target_modules=["query"], task_type="SEQ_CLS", modules_to_save=["classifier"])
    adapted = peft.get_peft_model(bert, config)
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    adapted.save_pretrained(tmp_path / "adapter", save_embedding_layers=False)
    assert find_checkpoints([str(tmp_path / "adapter")]) == [tmp_path / "adapter"]
    with pytest.raises(SubjectError, match=r'say where the model that it adapts lies with --model-args \'{"base": "FOLDER"}\''):
        open_checkpoint(tmp_path / "adapter", given)
    told = Given(model="hf", model_args={"base": str(tmp_path / "base")}, data=given.data)
    subject = open_checkpoint(tmp_path / "adapter", told)
    torch.testing.assert_close(logits(subject, subject.model), logits(subject, adapted))  # attention is another kernel
    operator = HessianOperator(subject.model, subject.samples, subject.loss)
    assert all("lora" in name or "classifier" in name for name in operator.parameter_names)
    only = HessianOperator(subject.model, subject.samples, subject.loss, params="*lora_*")
    assert only.size == 2 * 2 * 2 * (8 + 8) / 2
    assert np.isfinite(only.loss_and_gradient()[0])
    path = tmp_path / "adapter" / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"r": 3}))
    with pytest.raises(CheckpointError, match=r"does not fit .*another base, or another adapter"):
        open_checkpoint(tmp_path / "adapter", told)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"peft_type": "NEW"}))
    with pytest.raises(SubjectError, match="no adapter of the type 'NEW'"):
        open_checkpoint(tmp_path / "adapter", told)


def test_an_argument_that_the_configuration_does_not_have_is_refused(bert, given, tmp_path):
    bert.save_pretrained(tmp_path / "net")
    changed = Given(model="hf", model_args={"num_hidden_layer": 2}, data=given.data)
    with pytest.raises(SubjectError, match="has no field 'num_hidden_layer'; did you mean 'num_hidden_layers'"):
        open_checkpoint(tmp_path / "net", changed)
    open_checkpoint(tmp_path / "net", Given(model="hf", model_args={"num_labels": 3}, data=given.data))


def test_a_trainer_folder_without_its_configuration_says_so(bert, given, tmp_path):
    folder = tmp_path / "checkpoint-9"
    bert.save_pretrained(folder)
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth"):
        torch.save({"state": {}}, folder / name)
    (folder / "trainer_state.json").write_text("{}")
    (folder / "config.json").unlink()
    assert find_checkpoints([str(folder)]) == [folder / "model.safetensors"]
    with pytest.raises(SubjectError, match=r"no config\.json in .*checkpoint-9"):
        open_checkpoint(folder / "model.safetensors", given)


@pytest.mark.filterwarnings("ignore")  # of peft
def test_a_damaged_adapter_or_another_base_is_refused_in_a_sentence(bert, given, tmp_path):
    peft = pytest.importorskip("peft")
    bert.save_pretrained(tmp_path / "base")
    config = {"target_modules": ["query"], "task_type": "SEQ_CLS"}
    wider = transformers.BertForSequenceClassification(
        transformers.BertConfig.from_dict({**bert.config.to_dict(), "hidden_size": 16})
    )
    wider.save_pretrained(tmp_path / "wide")
    gpt = transformers.GPT2Config(vocab_size=50, n_embd=8, n_layer=1, n_head=2, num_labels=3)
    transformers.GPT2ForSequenceClassification(gpt).save_pretrained(tmp_path / "gpt")
    for rank in (2, 4):
        adapted = peft.get_peft_model(
            transformers.BertForSequenceClassification(bert.config), peft.LoraConfig(r=rank, **config)
        )
        adapted.save_pretrained(tmp_path / f"rank-{rank}", save_embedding_layers=False)
    adapter, weights = tmp_path / "rank-2", tmp_path / "rank-2" / "adapter_model.safetensors"
    whole, table = weights.read_bytes(), (adapter / "adapter_config.json").read_text()

    def refused(base="base"):
        (folder,) = find_checkpoints([str(adapter)])
        with pytest.raises((SubjectError, CheckpointError)) as caught:
            open_checkpoint(folder, Given(model="hf", model_args={"base": str(tmp_path / base)}, data=given.data))
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert "another base" in refused("wide")
    assert "no adapter of GPT2ForSequenceClassification can be made of it" in refused("gpt")
    assert "there is no config.json in" in refused("base/model.safetensors")
    weights.write_bytes(whole[: len(whole) // 2])
    assert "is the file complete?" in refused()
    weights.write_bytes((tmp_path / "rank-4" / "adapter_model.safetensors").read_bytes())
    assert "does not fit" in refused()
    weights.write_bytes((tmp_path / "base" / "model.safetensors").read_bytes())
    assert "does not fit the adapter of BertForSequenceClassification; in one of the two only" in refused()
    weights.unlink()
    assert "a folder without adapter_model.safetensors or adapter_model.bin; it holds" in refused()
    weights.write_bytes(whole)
    (adapter / "adapter_config.json").write_text(table.replace('"query"', '"nope"'))
    assert "can be made of it: " in refused()
    (adapter / "adapter_config.json").write_text("{")
    assert "adapter_config.json: no JSON" in refused()


TOKENISED = """
from tokenizers import Tokenizer, models, pre_tokenizers
from torch.utils.data import DataLoader
from transformers import DataCollatorWithPadding, PreTrainedTokenizerFast

WORDS = "[PAD] [UNK] the ball goes to a team and stays".split()
raw = Tokenizer(models.WordLevel({word: place for place, word in enumerate(WORDS)}, unk_token="[UNK]"))
raw.pre_tokenizer = pre_tokenizers.Whitespace()
tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, pad_token="[PAD]", unk_token="[UNK]")

class Texts:
    texts = ["the ball", "a team and the ball", "it stays", "the team goes to the ball and stays"] * 3
    domain = ["mail", "news"] * 6

    def __len__(self):
        return 12

    def __getitem__(self, row):
        return {**tokenizer(self.texts[row], return_token_type_ids=False), "labels": row % 3}

def texts():
    return DataLoader(Texts(), batch_size=4, shuffle=True, collate_fn=DataCollatorWithPadding(tokenizer))

lists = Texts
"""


@pytest.mark.filterwarnings("ignore")  # of the tokeniser: padding takes two calls
def test_tokenised_text_with_a_collator_and_without(bert, tmp_path):
    (tmp_path / "texts.py").write_text(TOKENISED)
    bert.save_pretrained(tmp_path / "net")
    found = {}
    for name in ("texts", "lists"):
        subject = open_checkpoint(tmp_path / "net", Given(model="hf", data=f"{tmp_path / 'texts.py'}:{name}", column="domain"))
        assert subject.samples.columns["domain"].codes.tolist() == [0, 1] * 6
        found[name] = HessianOperator(subject.model, subject.samples, subject.loss).loss_and_gradient()
    assert found["texts"][0] == pytest.approx(found["lists"][0], rel=1e-6)
    torch.testing.assert_close(found["texts"][1], found["lists"][1], rtol=1e-4, atol=1e-6)
