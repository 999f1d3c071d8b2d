"""A stand-in for a chat model, and the tool it calls: what the demo and the notebooks need without an API key.

The model has no list of answers: it decides from the messages it is given, so what it says is what
the session remembers.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

from langchain_core.callbacks import CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.runnables import Runnable, RunnableConfig
from langchain_core.tools import tool

MONTHS = ["January", "February", "March", "April", "May"]
INVOICES = {
    "alice": dict(zip(MONTHS, [(1988, 118), (2012, 124), (2041, 129), (2077, 97), (2103, 140)], strict=True)),
    "bob": dict(zip(MONTHS, [(1990, 20), (2013, 20), (2043, 20), (2078, 20), (2104, 25)], strict=True)),
}
calls: Counter[str] = Counter()
"""How often the tool was called, by user."""


@tool
def find_invoice(month: str, config: RunnableConfig) -> str:
    """Find the invoice of a month, for example of "March"."""
    user = config["configurable"]["user_id"]
    calls[user] += 1
    return invoice_of(user, month)


def invoice_of(user: str, month: str) -> str:
    """What the books say of a user's invoice of a month."""
    if month not in INVOICES[user]:
        return f"There is no invoice for {month}; there are some for {', '.join(MONTHS)}."
    number, amount = INVOICES[user][month]
    due = [*MONTHS, "June"][MONTHS.index(month) + 1]
    return json.dumps({"month": month, "number": f"INV-{number}", "amount": f"${amount}", "due": f"{due} 14"})


class ScriptedModel(BaseChatModel):
    """A stand-in for a chat model: it reads the messages it is given and answers from them alone."""

    @property
    def _llm_type(self) -> str:
        return "scripted"

    def bind_tools(self, tools: Sequence[Any], **kwargs: Any) -> Runnable[Any, AIMessage]:
        """Let it call these tools."""
        return self.bind(tools=[each.name for each in tools], **kwargs)

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        return ChatResult(generations=[ChatGeneration(message=answer(messages))])


def answer(messages: list[BaseMessage]) -> AIMessage:
    """What a helpful model would say next, knowing only these messages."""
    questions = [message.text for message in messages if isinstance(message, HumanMessage)]
    events = [message.text for message in messages if isinstance(message, SystemMessage)]
    results = [message.text for message in messages if isinstance(message, ToolMessage)]
    found = [json.loads(result) for result in results if result.startswith("{")]
    known = {invoice["month"]: invoice for invoice in found}
    question = questions[-1]
    if question.startswith("Pay "):
        if isinstance(messages[-1], ToolMessage):
            return AIMessage(messages[-1].text)
        number = question.removeprefix("Pay ").rstrip(".")
        call = {"name": "pay_invoice", "args": {"number": number}, "id": f"call_{len(messages)}_pay"}
        return AIMessage("", tool_calls=[call])
    wanted = months_in(question)
    for month in wanted:
        if month not in known:
            call_id = f"call_{len(messages)}_{month}"
            return AIMessage("", tool_calls=[{"name": "find_invoice", "args": {"month": month}, "id": call_id}])
    if wanted:
        invoices = [known[month] for month in wanted]
        total = sum(int(invoice["amount"].lstrip("$")) for invoice in invoices)
        listed = ", ".join(f"{invoice['number']} ({invoice['amount']})" for invoice in invoices)
        return AIMessage(f"{listed}." if len(wanted) == 1 else f"{listed}: ${total} in all.")
    if "asked" in question:
        asked = "; ".join(f"“{each}”" for each in questions[:-1])
        return AIMessage(f"Before this: {asked}." if asked else "Nothing before this.")
    if not found:
        return AIMessage("I know of no invoice yet. Which month do you mean?")
    invoice = found[-1]
    if "due" in question:
        where = " You have the billing page open: pay it there." if any("billing page" in e for e in events) else ""
        return AIMessage(f"{invoice['number']} is due on {invoice['due']}.{where}")
    return AIMessage(f"Dear accountant, {invoice['number']} of {invoice['month']} came to {invoice['amount']}.")


def months_in(question: str) -> list[str]:
    """The months a question names; "January to May" names all between."""
    named = [month for month in MONTHS if month in question]
    if re.search(r"\w+ to \w+", question) and len(named) == 2:
        return MONTHS[MONTHS.index(named[0]) : MONTHS.index(named[1]) + 1]
    return named
