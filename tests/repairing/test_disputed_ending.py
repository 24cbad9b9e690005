"""Where a model's files disagree on what ends an answer, the dense model's own end is taught, and it is said."""

import pytest
import torch
from data.vlms import VLMS, WORDS
from repairing.tiny import TinyVlm, pruned_pair, samples

from ressa.data.batcher import Batcher
from ressa.repairing import CachedLogits, RepairConfig, cache_logits, repair
from ressa.repairing.ending import probabilities, settled_batcher
from ressa.repairing.forward import Forward
from ressa.warned import RessaWarning, recorded

CPU = Forward(torch.device("cpu"))
END, OTHER = WORDS.index("</s>"), WORDS.index("<s>")


def torn(family: str) -> TinyVlm:
    """A model whose tokenizer ends texts with </s> while its generation stops at <s>."""
    model, processor = VLMS[family]()
    model.generation_config.eos_token_id = OTHER
    return TinyVlm(model, processor)


def taught(vlm: TinyVlm, token: int) -> TinyVlm:
    """The same, giving `token` after its answers."""
    vlm.model.requires_grad_(True)
    batcher = Batcher(vlm.processor, vlm.model.config, vlm.model.generation_config)
    batch = batcher.training(samples(8))
    end = batcher.text.end.ids[0]
    batch["labels"][batch["labels"] == end] = token
    optimizer = torch.optim.AdamW(vlm.model.parameters(), lr=3e-3)
    for _ in range(30):
        vlm.model(**batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return vlm


@pytest.mark.parametrize("family", ["instructblip", "llava"])
@pytest.mark.parametrize("token", [END, OTHER])
def test_the_dense_model_decides(family, token):
    vlm = taught(torn(family), token)
    with pytest.warns(RessaWarning, match="disagree on what ends an answer") as said:
        batcher = settled_batcher(vlm, vlm.model, samples(8), CPU)
    assert batcher.text.end.ids == (token,)
    assert WORDS[token] in str(said[0].message)
    # It is said what to do where generation would run past that end.
    assert ("eos_token_id" in str(said[0].message)) == (token == END)
    assert all(row[-1] == token for row in batcher.targets(samples(3)))
    stops = batcher.stopping().get("eos_token_id", batcher.text.endings.stops)
    assert token in stops


def test_what_is_asked_of_it_is_the_token_behind_each_known_answer():
    vlm = torn("llava")
    batcher = Batcher(vlm.processor, vlm.model.config, vlm.model.generation_config)
    found = probabilities(vlm.model, batcher, samples(2), CPU)
    want = {}
    for sample in samples(2):
        inputs = batcher.generation([sample])
        answer = batcher.targets([sample])[0][:-1]
        inputs["input_ids"] = torch.cat([inputs["input_ids"], answer[None]], 1)
        inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
        with torch.no_grad():
            shares = vlm.model(**inputs).logits[0, -1].softmax(-1)
        for token in (END, OTHER):
            want[token] = want.get(token, 0) + shares[token].item() / 2
    assert {ending.ids[0]: share for ending, share in found.items()} == pytest.approx(want, rel=1e-4)


def test_files_that_agree_are_believed():
    model, processor = VLMS["llava"]()
    with recorded() as said:
        batcher = settled_batcher(TinyVlm(model, processor), model, samples(2), CPU)
    assert batcher.text.end.ids == (END,)
    assert said == []


def test_repair_teaches_what_the_dense_model_says_also_from_its_cached_logits(tmp_path):
    histories = []
    for cached in (False, True):
        pruned, masks, dense = pruned_pair("llava")
        for vlm in (pruned, dense):
            vlm.model.generation_config.eos_token_id = OTHER
        with torch.no_grad():  # it gives <s> whatever it is asked
            dense.model.lm_head.weight[OTHER] = dense.model.lm_head.weight[END] * 2
            pruned.model.lm_head.weight.copy_(dense.model.lm_head.weight)
        config = RepairConfig(learning_rate=1e-2, batch_size=4, steps=2, device="cpu", precision="fp32")
        with recorded() as said:
            teacher = cache_logits(dense, samples(8), tmp_path, k=1000) if cached else dense
            histories.append([e["loss"] for e in repair(pruned, masks, teacher, samples(8), config).history])
        assert any("disagree" in sentence for sentence in said)
    assert histories[0] == pytest.approx(histories[1], rel=1e-4)
    assert CachedLogits(tmp_path).end.ids in {(END,), (OTHER,)}
