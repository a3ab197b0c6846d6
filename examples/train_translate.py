# SPDX-License-Identifier: MIT
"""Numbers in words to digits with an encoder and a decoder: "three hundred and five" to "305".

    python examples/train_translate.py

Embedding and GRU(128) read the words; their last state is the first of the decoder, Embedding,
GRU(128) and Dense, which writes digits until its end mark (Sutskever et al. 2014). Numbers up to
9,999; a tenth of them is never seen in training. All digits must be right for a number to count.

Result (seed 0): after three epochs 99.7 % of the held-out numbers have all digits right, after
twelve 99.9 %.
"""

from __future__ import annotations

import numpy as np
from example_parts import figure, options, save, table

import gruengine as gr

SMALL = """zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen
fifteen sixteen seventeen eighteen nineteen""".split()
TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()
WORDS = ["", *SMALL, *TENS, "hundred", "thousand", "and"]
INDEX = {word: i for i, word in enumerate(WORDS)}
START, END, LONGEST = 10, 11, 5  # the digits are 0 to 9


def words_of(number: int) -> list[str]:
    """Return a number from 0 to 9,999 in words."""
    if number < 20:
        return [SMALL[number]]
    if number < 100:
        rest = number % 10
        return [TENS[number // 10 - 2], *([SMALL[rest]] if rest else [])]
    size, name = (100, "hundred") if number < 1000 else (1000, "thousand")
    found = [*words_of(number // size), name]
    rest = number % size
    if rest and rest < 100:
        found.append("and")
    return found + (words_of(rest) if rest else [])


def arrays(numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return words, their lengths, what the decoder reads, and what it must write."""
    written = [words_of(int(number)) for number in numbers]
    lengths = np.array([len(words) for words in written])
    source = np.zeros((len(numbers), 10), np.int64)
    wanted = np.full((len(numbers), LONGEST), END)
    for row, digits, words, number in zip(source, wanted, written, numbers, strict=True):
        row[: len(words)] = [INDEX[word] for word in words]
        digits[: len(str(number))] = [int(c) for c in str(number)]
    given = np.concatenate([np.full((len(numbers), 1), START), wanted[:, :-1]], axis=1)
    return source, lengths, given, wanted


def right(net: gr.EncoderDecoder, numbers: np.ndarray) -> float:
    """Return the part of numbers whose digits are all right, written freely."""
    source, lengths, _, wanted = arrays(numbers)
    return float((net.generate(source, START, LONGEST, lengths) == wanted).all(axis=1).mean())


def main() -> None:
    chosen = options(__doc__)
    order = np.random.default_rng(chosen.seed).permutation(10_000)
    test, seen = order[:1000], order[1000:]
    epochs = 12
    if chosen.quick:
        test, seen, epochs = test[:50], seen[:200], 1
    encoder = gr.Sequential([gr.Embedding(len(WORDS), 32), gr.GRU(128)], seed=chosen.seed)
    decoder = gr.Sequential(
        [gr.Embedding(12, 32), gr.GRU(128, return_sequences=True), gr.Dense(12)],
        seed=chosen.seed + 1,
    )
    net = gr.EncoderDecoder(encoder, decoder)
    source, lengths, given, wanted = arrays(seen)
    steps = epochs * -(-len(seen) // 64)
    trainer = gr.Trainer(
        net, "cross_entropy", gr.optimizers.Adam(gr.optimizers.cosine(4e-3, steps, 1e-4)),
        clip_norm=1.0, metrics=["accuracy"], seed=chosen.seed,
    )  # fmt: skip
    rows = []

    def note(epoch: int, row: dict[str, float]) -> None:
        found = right(net, test)
        rows.append([epoch + 1, row["loss"], row["accuracy"], found])
        print(f"epoch {epoch + 1}: loss {row['loss']:.4f}, held-out numbers right {found:.3f}")

    # Lengths are those of the words; every digit counts, the end marks too.
    trainer.fit((source, given), wanted, lengths, epochs=epochs, batch_size=64, callback=note)
    table(chosen.out / "translate.md",
          ["epoch", "loss", "digits right, training", "numbers right, held out"], rows)  # fmt: skip
    for number in test[:5]:
        digits = net.generate(*_one(int(number)))[0]
        print(" ".join(words_of(int(number))), "->", "".join(str(d) for d in digits if d < 10))
    made, ax = figure()
    ax.plot([row[0] for row in rows], [row[3] for row in rows], "o-")
    ax.set_xlabel("epoch")
    ax.set_ylabel("held-out numbers, all digits right")
    save(made, chosen.out / "translate.png")


def _one(number: int) -> tuple[np.ndarray, int, int, np.ndarray]:
    source, lengths, _, _ = arrays(np.array([number]))
    return source, START, LONGEST, lengths


if __name__ == "__main__":
    main()
