# SPDX-License-Identifier: GPL-2.0-or-later
"""Programs that differ in what is no part of a block's key, and what the engine makes of them.

A *program* is a kernel (``kernel.S``) with many snippets of x86 code, each a few instructions that
end in an exception. The kernel runs them one after the other, each from the same state, and keeps
a sum of what each left behind. A *pair* of programs differs in one thing alone, such as 32-bit
immediates (docs/engine.md, "Moving immediates"): what the engine recorded of the first is adopted
or verified for the second.

| module | holds |
|---|---|
| ``values`` | numbers at the borders of the engine's rule |
| ``modes`` | the states of the processor that snippets run in |
| ``encode``, ``opcodes``, ``snippets`` | random instructions and what they are put together to |
| ``layout``, ``image`` | where snippets lie in pages, page tables, the file |
| ``machine`` | one program in one machine |
| ``pairs``, ``judge`` | the kinds of pairs, and every run of one |
"""
