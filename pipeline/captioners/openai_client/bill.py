"""What requests to a model cost, and whether one more could cost more than may be spent."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.params import OpenAI as Options

MILLION = 1e6
MARGIN = 1.1  # a prompt may be so much longer than the longest that was answered
ROUNDING = 1e-9  # of the budget


@dataclass
class Bill:
    """Counts of this process; what earlier runs of the same captioner spent is not known to it."""

    options: Options
    max_tokens: int  # of one answer
    answers: int = 0
    retries: int = 0
    lost: int = 0  # tries whose answer never came or could not be read; they may have been billed
    input_tokens: int = 0
    output_tokens: int = 0
    longest_prompt: int = 0  # tokens
    lost_cost: float = 0.0

    def add(self, input_tokens: int, output_tokens: int) -> None:
        """Notes an answer's tokens."""
        self.answers += 1
        self.input_tokens += input_tokens
        self.output_tokens += output_tokens
        self.longest_prompt = max(self.longest_prompt, input_tokens)

    def lose(self) -> None:
        """Notes a try of unknown cost: the most that it can have cost."""
        self.lost += 1
        self.lost_cost += self.most_for_one

    @property
    def cost(self) -> float:
        """Of the answers, from their tokens."""
        return self._price(self.input_tokens, self.output_tokens)

    @property
    def most_for_one(self) -> float:
        """What one more try costs at most, as far as is known: a prompt's length is, from the first answer on."""
        return self._price(self.longest_prompt * MARGIN, self.max_tokens)

    def affords(self, tries: int) -> bool:
        """Whether `tries` that are open stay within the budget, whatever they cost."""
        budget = self.options.budget
        spent = self.cost + self.lost_cost
        return budget is None or spent + tries * self.most_for_one <= budget * (1 + ROUNDING)

    def sentence(self) -> str:
        """The whole bill."""
        text = (
            f"{self.options.model} at {self.options.server}: {_count(self.answers, 'answer')}, "
            f"{self.retries} retries, {self.input_tokens} tokens in, {self.output_tokens} tokens out"
        )
        if self.options.prices.input or self.options.prices.output:
            text += f", which cost {self.cost:.4g}"
        if self.lost:
            most = f", up to {self.lost_cost:.4g} more" if self.lost_cost else ""
            text += f"; {_count(self.lost, 'try', 'tries')} without a usable answer may have been billed too{most}"
        return text

    def _price(self, input_tokens: float, output_tokens: float) -> float:
        prices = self.options.prices
        return (input_tokens * prices.input + output_tokens * prices.output) / MILLION


def _count(number: int, one: str, many: str = "") -> str:
    return f"{number} {one if number == 1 else many or one + 's'}"
