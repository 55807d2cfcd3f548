"""Several sequences that are read, then mixed."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from sidrank.layers import CrossAttention
from sidrank.layers.rank_mixer import PerTokenFFN, RankMixerBlock
from sidrank.sequences.hyformer import (
    HyFormer,
    HyFormerBlock,
    HyFormerQueries,
    KeepingHyFormer,
    QueryBoosting,
)
from tests.layers import reference_layers
from tests.layers import reference_mixing as reference

B, C, D = 4, 3, 12
WIDTHS, LENGTHS = (12, 5), (7, 4)  # of the two sequences


class Encoder(torch.nn.Module):
    """A transformer layer of any library; it answers NaN for a row that is all padding."""

    def __init__(self, dim):
        super().__init__()
        self.layer = torch.nn.TransformerEncoderLayer(dim, 1, 8, dropout=0.0, batch_first=True)

    def forward(self, x, mask):
        return self.layer(x, src_key_padding_mask=~mask)


def block(num_queries=1, num_tokens=2, boosting=None, encoders=None, widths=WIDTHS):
    total = len(widths) * num_queries + num_tokens
    if boosting is None:
        ffn = PerTokenFFN(num_tokens=total, dim=D, hidden=9)
        boosting = QueryBoosting(num_tokens=total, dim=D, ffn=ffn)
    decoders = [CrossAttention(dim=D, query_dim=D, key_dim=width, num_heads=2) for width in widths]
    return HyFormerBlock(decoders=decoders, boosting=boosting, encoders=encoders)


def model(num_blocks=2, num_tokens=2, encoded=False):
    queries = HyFormerQueries(num_tokens=num_tokens, dim=D, sequence_dims=WIDTHS, hidden=6)
    blocks = []
    for _ in range(num_blocks):
        encoders = [Encoder(width) for width in WIDTHS] if encoded else None
        blocks.append(block(num_tokens=num_tokens, encoders=encoders))
    return HyFormer(queries=queries, blocks=blocks)


def histories(rows=B, lengths=LENGTHS):
    sequences = [torch.randn(rows, n, width) for n, width in zip(lengths, WIDTHS, strict=True)]
    masks = [torch.rand(rows, n) < 0.7 for n in lengths]
    masks[0][0] = masks[1][1] = False  # a row without the one, a row without the other
    masks[0][2:3] = masks[1][2:3] = False  # a row without any
    return sequences, masks


class TestBlock:
    @pytest.mark.parametrize("num_queries", [1, 2])
    def test_equals_the_paper(self, num_queries):
        module = block(num_queries)
        queries, tokens = torch.randn(B, C, 2, num_queries, D), torch.randn(B, C, 2, D)
        sequences, masks = histories()
        new_queries, new_tokens, _ = module(queries, tokens, sequences, masks)
        layers = [reference_layers.attention_layers(decoder) for decoder in module.decoders]
        networks = reference.per_token_networks(module.boosting.ffn)
        for row in range(B):
            for c in range(C):
                read = []
                for s in range(2):
                    keys = sequences[s][row][masks[s][row]].tolist()
                    for query in queries[row, c, s].tolist():
                        read.append(reference_layers.attention(query, keys, layers[s], 2))
                expected = torch.tensor(reference.boost(read + tokens[row, c].tolist(), networks))
                got = torch.cat([new_queries[row, c].flatten(0, 1), new_tokens[row, c]])
                torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)

    def test_one_sequence_one_query_and_no_boosting_is_target_attention(self):
        module = block(boosting=torch.nn.Identity(), num_tokens=0, widths=WIDTHS[:1])
        target, (sequences, masks) = torch.randn(B, C, D), histories()
        queries, tokens, _ = module(
            target[:, :, None, None], torch.zeros(B, C, 0, D), sequences[:1], masks[:1]
        )
        expected = module.decoders[0](target, sequences[0], masks[0])
        assert torch.equal(queries[:, :, 0, 0], expected)
        assert tokens.shape == (B, C, 0, D)

    def test_sequences_never_meet_before_boosting(self):
        sequences, masks = (
            [x[3:] for x in histories()[0]],
            [torch.ones(1, n).bool() for n in LENGTHS],
        )
        queries, tokens = torch.randn(1, 1, 2, 1, D), torch.randn(1, 1, 2, D)
        encoders = [Encoder(width) for width in WIDTHS]

        def depends(module):
            """How much the queries of each sequence (rows) depend on each sequence (columns)."""

            def answers(*given):
                return module(queries, tokens, list(given), masks)[0]

            full = torch.autograd.functional.jacobian(answers, tuple(sequences))
            return torch.stack([part[0, 0].abs().flatten(1).amax(dim=1) for part in full], dim=1)

        apart = depends(block(boosting=torch.nn.Identity(), encoders=encoders))
        assert torch.equal(apart > 0, torch.eye(2).bool())
        assert (depends(block(encoders=encoders)) > 1e-5).all()

    def test_every_token_depends_on_all_after_boosting(self):
        module, sequences = block(), histories()[0]

        def answers(queries, tokens):
            one, two, _ = module(queries, tokens, [x[3:] for x in sequences], masks_of_one)
            return torch.cat([one[0, 0, :, 0], two[0, 0]])

        masks_of_one = [torch.ones(1, n).bool() for n in LENGTHS]
        given = torch.randn(1, 1, 2, 1, D), torch.randn(1, 1, 2, D)
        of_queries, of_tokens = torch.autograd.functional.jacobian(answers, given)
        assert (of_queries[:, :, 0, 0, :, 0].abs().sum(dim=(1, 3)) > 0).all()
        assert (of_tokens[:, :, 0, 0].abs().sum(dim=(1, 3)) > 0).all()

    def test_encoded_sequences_feed_decoder_and_next_block(self):
        encoders = [Encoder(width) for width in WIDTHS]
        module, (sequences, masks) = (
            block(encoders=encoders, boosting=torch.nn.Identity()),
            histories(),
        )
        queries = torch.randn(B, C, 2, 1, D)
        answers, _, encoded = module(queries, torch.randn(B, C, 2, D), sequences, masks)
        for s in range(2):
            some = masks[s].any(dim=1)
            expected = encoders[s](sequences[s], masks[s])
            real = masks[s].unsqueeze(2)
            torch.testing.assert_close(encoded[s][some], torch.where(real, expected, 0.0)[some])
            assert not encoded[s][~some].any()  # where the layer answers NaN
            read = module.decoders[s](queries[:, :, s, 0], encoded[s], masks[s])
            torch.testing.assert_close(answers[:, :, s, 0], read)

    def test_rank_mixer_block_may_boost(self):
        ffn = PerTokenFFN(num_tokens=4, dim=D, hidden=9)
        module = block(boosting=RankMixerBlock(num_tokens=4, dim=D, ffn=ffn))
        queries, tokens, _ = module(
            torch.randn(B, C, 2, 1, D), torch.randn(B, C, 2, D), *histories()
        )
        torch.testing.assert_close(queries.mean(dim=-1), torch.zeros(B, C, 2, 1))  # a norm is last
        torch.testing.assert_close(tokens.mean(dim=-1), torch.zeros(B, C, 2))


class TestEmptySequences:
    def test_row_without_any_reads_its_tokens_alone(self):
        module, (sequences, masks) = model(), histories()
        tokens = torch.randn(B, C, 2, D)
        answers = module(tokens, sequences, masks)
        assert answers.isfinite().all()
        other = [torch.randn_like(x) for x in sequences]
        torch.testing.assert_close(module(tokens, other, masks)[2], answers[2], rtol=0.0, atol=0.0)
        tokens[2, :, 1] += 1.0
        assert (module(tokens, sequences, masks)[2] != answers[2]).any(dim=(1, 2)).all()

    def test_no_gradient_through_it_but_of_biases(self):
        module = model()
        sequences = [
            torch.full((2, n, w), float("nan")) for n, w in zip(LENGTHS, WIDTHS, strict=True)
        ]
        masks = [torch.zeros(2, n).bool() for n in LENGTHS]
        module(torch.randn(2, 1, 2, D), sequences, masks).square().sum().backward()
        gradients = {name: p.grad for name, p in module.named_parameters()}
        assert all(gradient.isfinite().all() for gradient in gradients.values())
        assert not gradients["blocks.0.decoders.0.key.weight"].any()
        assert gradients["blocks.0.decoders.0.out.bias"].any()

    def test_one_empty_sequence_leaves_the_other(self):
        module, (sequences, masks) = model(), histories()
        tokens = torch.randn(B, C, 2, D)
        answers = module(tokens, sequences, masks)
        other = [sequences[0], sequences[1] + 1.0]  # row 1 has none of the second
        changed = (module(tokens, other, masks) != answers).flatten(1).any(dim=1)
        assert changed.tolist() == [True, False, False, True]


class TestQueries:
    def test_equal_the_definition(self):
        module = HyFormerQueries(num_tokens=2, dim=D, sequence_dims=WIDTHS, hidden=6, num_queries=3)
        tokens, (sequences, masks) = torch.randn(B, C, 2, D), histories()
        queries = module(tokens, sequences, masks)
        first = module.hidden.weight.unflatten(0, (6, 6)), module.hidden.bias.unflatten(0, (6, 6))
        for row in range(B):
            known = []
            for x, mask in zip(sequences, masks, strict=True):
                real = x[row][mask[row]]
                known += (real.mean(dim=0) if len(real) else torch.zeros(x.shape[2])).tolist()
            for c in range(C):
                for s in range(2):
                    for n in range(3):
                        network = 3 * s + n
                        hidden = first[0][network].tolist(), first[1][network].tolist()
                        out = (
                            module.out.weight[network].t().tolist(),
                            module.out.bias[network].tolist(),
                        )
                        x = tokens[row, c].flatten().tolist() + known
                        expected = torch.tensor(reference.ffn(hidden, out, x))
                        torch.testing.assert_close(queries[row, c, s, n], expected)

    def test_differ_between_sequences_and_queries(self):
        module = HyFormerQueries(num_tokens=2, dim=D, sequence_dims=WIDTHS, hidden=6, num_queries=2)
        queries = module(torch.randn(B, C, 2, D), *histories()).flatten(2, 3)
        for one in range(4):
            for other in range(one):
                assert not torch.allclose(queries[:, :, one], queries[:, :, other], atol=1e-2)


class TestModel:
    def test_candidates_at_once_are_candidates_one_by_one(self):
        module, (sequences, masks) = model(), histories()
        tokens = torch.randn(B, C, 2, D)
        together = module(tokens, sequences, masks)
        assert together.shape == (B, C, 4, D)
        for c in range(C):
            alone = module(tokens[:, c : c + 1], sequences, masks)
            torch.testing.assert_close(alone[:, 0], together[:, c], rtol=1e-5, atol=1e-6)

    def test_later_blocks_read_what_earlier_ones_boosted_and_encoded(self):
        one, (sequences, masks) = model(num_blocks=2, encoded=True), histories()
        tokens = torch.randn(B, C, 2, D)
        queries = one.queries(tokens, sequences, masks)
        queries, boosted, encoded = one.blocks[0](queries, tokens, sequences, masks)
        queries, boosted, _ = one.blocks[1](queries, boosted, encoded, masks)
        expected = torch.cat([queries.flatten(2, 3), boosted], dim=2)
        assert torch.equal(one(tokens, sequences, masks), expected)

    def test_cost_of_a_history_twice_as_long(self):
        """Every operation that depends on a length is linear in it; boosting does not."""

        def cost(length, part):
            module, inputs = model(), histories(2, (length, length))
            tokens = torch.randn(2, C, 2, D)
            with FlopCounterMode(display=False) as counter:
                module(tokens, *inputs)
            counts = counter.get_flop_counts()
            return sum(sum(flops.values()) for name, flops in counts.items() if name.endswith(part))

        reading = [sum(cost(n, f"decoders.{s}") for s in range(2)) for n in (100, 200, 300)]
        assert reading[2] - reading[1] == reading[1] - reading[0] > 0
        assert cost(100, "boosting") == cost(200, "boosting") > 0
        total = [cost(n, "HyFormer") for n in (100, 200)]
        assert total[1] - total[0] == reading[1] - reading[0]

    def test_exported_program_takes_any_number_of_rows(self):
        module = model().eval()
        tokens, (sequences, masks) = torch.randn(B, C, 2, D), histories()
        rows = torch.export.Dim("rows")
        each = [{0: rows}] * 2
        program = torch.export.export(
            module, (tokens, sequences, masks), dynamic_shapes=({0: rows}, each, each)
        ).module()
        for number in (B, 7):
            given = torch.randn(number, C, 2, D), *histories(number)
            torch.testing.assert_close(program(*given), module(*given))


class TestKeeping:
    def kept(self, num_blocks, **kwargs):
        plain = model(num_blocks, **kwargs)
        return plain, KeepingHyFormer(queries=plain.queries, blocks=list(plain.blocks))

    def test_one_round_is_the_plain_one(self):
        (plain, module), (sequences, masks) = self.kept(1), histories()
        tokens = torch.randn(B, C, 2, D)
        assert torch.equal(module(tokens, sequences, masks), plain(tokens, sequences, masks))

    def test_equals_the_definition(self):
        (_, module), (sequences, masks) = self.kept(3, encoded=True), histories()
        tokens = torch.randn(B, C, 2, D)
        answers = module(tokens, sequences, masks)
        first, read = module.queries(tokens, sequences, masks), []
        for block in module.blocks:
            asked = first + sum(read)
            told, tokens, sequences = block(asked, tokens, sequences, masks)
            read.append(told)
        torch.testing.assert_close(answers[:, :, :2], sum(read).flatten(2, 3))
        torch.testing.assert_close(answers[:, :, 2:], tokens)

    def test_the_first_reading_outlives_a_second_that_finds_nothing(self):
        (plain, module), (sequences, masks) = self.kept(2), histories()
        with torch.no_grad():
            for each in [*module.blocks[1].decoders, module.blocks[1].boosting.ffn]:
                each.out.weight.zero_()
                each.out.bias.zero_()
        tokens = torch.randn(B, C, 2, D)
        answers, before = module(tokens, sequences, masks), tokens
        queries = module.queries(tokens, sequences, masks)
        alone, _, _ = module.blocks[0](queries, before, sequences, masks)
        torch.testing.assert_close(answers[:, :, :2], alone.flatten(2, 3))
        assert not plain(tokens, sequences, masks)[:, :, :2].any()

    def test_same_parameters(self):
        plain, module = self.kept(2)
        assert module.state_dict().keys() == plain.state_dict().keys()

    def test_candidates_at_once_are_candidates_one_by_one(self):
        (_, module), (sequences, masks) = self.kept(2), histories()
        tokens = torch.randn(B, C, 2, D)
        together = module(tokens, sequences, masks)
        for c in range(C):
            alone = module(tokens[:, c : c + 1], sequences, masks)
            torch.testing.assert_close(alone[:, 0], together[:, c], rtol=1e-5, atol=1e-6)


class TestErrors:
    def test_tokens_that_do_not_divide_the_width(self):
        with pytest.raises(ValueError, match="dim must be a multiple of num_tokens 5, got 12"):
            QueryBoosting(num_tokens=5, dim=12, ffn=torch.nn.Identity())

    @pytest.mark.parametrize("name", ["num_tokens", "dim"])
    def test_sizes_of_boosting(self, name):
        with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
            QueryBoosting(**{"num_tokens": 1, "dim": 4, "ffn": torch.nn.Identity(), name: 0})

    @pytest.mark.parametrize("name", ["num_tokens", "dim", "hidden", "num_queries"])
    def test_sizes_of_queries(self, name):
        sizes = {"num_tokens": 1, "dim": 4, "hidden": 4, "num_queries": 1, name: 0}
        with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
            HyFormerQueries(**sizes, sequence_dims=[4])

    def test_sequences_of_queries(self):
        sizes = {"num_tokens": 1, "dim": 4, "hidden": 4}
        with pytest.raises(ValueError, match="sequence_dims must not be empty, got none"):
            HyFormerQueries(**sizes, sequence_dims=[])
        with pytest.raises(ValueError, match="sequence_dims must be at least 1, got 0"):
            HyFormerQueries(**sizes, sequence_dims=[3, 0])

    def test_parts(self):
        with pytest.raises(ValueError, match="decoders must not be empty, got none"):
            HyFormerBlock(decoders=[], boosting=torch.nn.Identity())
        with pytest.raises(ValueError, match="encoders must be one for each of 2 decoders, got 1"):
            block(encoders=[Encoder(12)])
        with pytest.raises(ValueError, match="blocks must not be empty, got none"):
            HyFormer(queries=torch.nn.Identity(), blocks=[])

    def test_no_block_to_keep(self):
        with pytest.raises(ValueError, match="blocks must not be empty, got none"):
            KeepingHyFormer(queries=torch.nn.Identity(), blocks=[])

    def test_number_of_sequences(self):
        sequences, masks = histories()
        tokens = torch.zeros(B, C, 2, D)
        with pytest.raises(ValueError, match="sequences must be 2, one for each sequence, got 1"):
            model()(tokens, sequences[:1], masks)
        with pytest.raises(ValueError, match="masks must be 2, one for each sequence, got 3"):
            model()(tokens, sequences, [*masks, masks[0]])

    def test_shapes(self):
        module, (sequences, masks) = block(), histories()
        queries, tokens = torch.zeros(B, C, 2, 1, D), torch.zeros(B, C, 2, D)
        with pytest.raises(ValueError, match=r"queries must have shape \[\*, \*, 2, \*, \*\]"):
            module(queries[:, :, :1], tokens, sequences, masks)
        with pytest.raises(ValueError, match=r"tokens must have shape \[4, 3, \*, 12\]"):
            module(queries, tokens[:, :1], sequences, masks)
        with pytest.raises(ValueError, match=r"tokens must have shape \[\*, 4, 12\], got \[12, 3"):
            module(queries, tokens[:, :, :1], sequences, masks)
        with pytest.raises(ValueError, match=r"sequences\[1\] must have shape \[4, \*, \*\]"):
            module(queries, tokens, [sequences[0], sequences[1][:2]], masks)
        with pytest.raises(ValueError, match=r"masks\[0\] must have shape \[4, 7\], got \[4, 4\]"):
            module(queries, tokens, sequences, masks[::-1])
        with pytest.raises(ValueError, match=r"masks\[0\] must be bool, got torch.float32"):
            module(queries, tokens, sequences, [mask.float() for mask in masks])
        with pytest.raises(ValueError, match=r"tokens must have shape \[\*, \*, 2, 12\]"):
            model()(tokens[:, :, :1], sequences, masks)
        with pytest.raises(ValueError, match=r"sequences\[0\] must have shape \[4, \*, 12\]"):
            model()(tokens, sequences[::-1], masks[::-1])
