"""The demo keeps what it claims, says so in its exit code, and depends on the memory it shows."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage, ToolMessage

DEMO = Path(__file__).parents[1] / "examples" / "demo.py"


@pytest.fixture
def demo(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(DEMO.parent)
    monkeypatch.delitem(sys.modules, "demo", raising=False)
    return importlib.import_module("demo")


@pytest.fixture
def scripted(demo: ModuleType) -> ModuleType:
    return sys.modules["scripted"]


def test_every_claim_of_the_demo_holds() -> None:
    done = subprocess.run([sys.executable, str(DEMO)], check=False, capture_output=True, text=True, encoding="utf-8")
    assert done.returncode == 0, done.stdout + done.stderr
    last = done.stdout.strip().splitlines()[-1]
    held, of = (int(word) for word in last.split(" claims")[0].split(" of "))
    assert held == of
    assert held >= 18


def test_the_demo_runs_where_letters_are_missing() -> None:
    environment = {**os.environ, "PYTHONIOENCODING": "latin-1"}
    done = subprocess.run([sys.executable, str(DEMO)], check=False, capture_output=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert rb"\u2714 the tool was called once" in done.stdout


def test_the_demo_fails_when_a_claim_does_not_hold(demo: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "CAP", 1000)  # no cut to show
    assert demo.main(None) == 1


def test_the_demo_fails_when_nothing_is_remembered(
    demo: ModuleType, scripted: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = scripted.answer

    def of_this_turn_alone(messages: list[BaseMessage]) -> AIMessage:
        newest = max(place for place, message in enumerate(messages) if isinstance(message, HumanMessage))
        return answer(messages[newest:])

    monkeypatch.setattr(scripted, "answer", of_this_turn_alone)
    assert demo.main(None) == 1


def test_a_model_that_does_not_exist_is_named(demo: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert demo.main("nobody:nothing") == 2
    assert "nobody:nothing cannot be used" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("error", "way"), [(ImportError("no package"), ".venv/bin/python -m pip"), (OSError("no key"), "")]
)
def test_what_a_model_lacks_is_told_without_a_traceback(
    demo: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: Exception, way: str
) -> None:
    def refuse(name: str) -> None:
        raise error

    monkeypatch.setattr(demo, "init_chat_model", refuse)
    assert demo.main("openai:gpt-5-mini") == 2
    said = capsys.readouterr().out
    assert f"openai:gpt-5-mini cannot be used. {error}" in said
    assert way in said


def test_the_scripted_model_answers_from_what_it_is_given(scripted: ModuleType) -> None:
    question = HumanMessage("When is it due?")
    assert "no invoice" in scripted.answer([question]).text
    call = AIMessage("", tool_calls=[{"name": "find_invoice", "args": {"month": "May"}, "id": "1"}])
    result = ToolMessage('{"month": "May", "number": "INV-7", "amount": "$5", "due": "June 14"}', tool_call_id="1")
    assert scripted.answer([call, result, question]).text == "INV-7 is due on June 14."
    event = SystemMessage("The user opened the billing page.")
    assert "billing page" in scripted.answer([call, result, event, question]).text


def test_the_scripted_model_calls_the_tool_for_what_it_does_not_know(scripted: ModuleType) -> None:
    reply = scripted.answer([HumanMessage("From March to May, please.")])
    assert [call["args"] for call in reply.tool_calls] == [{"month": "March"}]


def test_the_scripted_model_pays_by_its_tool_and_says_what_that_said(scripted: ModuleType) -> None:
    question = HumanMessage("Pay INV-7.")
    call = scripted.answer([question])
    assert [(each["name"], each["args"]) for each in call.tool_calls] == [("pay_invoice", {"number": "INV-7"})]
    result = ToolMessage("Paid INV-7.", tool_call_id=call.tool_calls[0]["id"])
    assert scripted.answer([question, call, result]).text == "Paid INV-7."
