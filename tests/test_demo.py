"""The demo keeps what it claims, says so in its exit code, and depends on the memory it shows."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

import pytest
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage, ToolMessage

DEMO = Path(__file__).parents[1] / "examples" / "demo.py"


@pytest.fixture
def demo() -> ModuleType:
    spec = importlib.util.spec_from_file_location("demo", DEMO)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_claim_of_the_demo_holds() -> None:
    began = time.perf_counter()
    done = subprocess.run([sys.executable, str(DEMO)], check=False, capture_output=True, text=True, encoding="utf-8")
    assert done.returncode == 0, done.stdout + done.stderr
    last = done.stdout.strip().splitlines()[-1]
    held, of = (int(word) for word in last.split(" claims")[0].split(" of "))
    assert held == of
    assert held >= 18
    assert time.perf_counter() - began < 20


def test_the_demo_fails_when_a_claim_does_not_hold(demo: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "CAP", 1000)  # no cut to show
    assert demo.main(None) == 1


def test_the_demo_fails_when_nothing_is_remembered(demo: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = demo.answer

    def of_this_turn_alone(messages: list[BaseMessage]) -> AIMessage:
        newest = max(place for place, message in enumerate(messages) if isinstance(message, HumanMessage))
        return answer(messages[newest:])

    monkeypatch.setattr(demo, "answer", of_this_turn_alone)
    assert demo.main(None) == 1


def test_a_model_that_does_not_exist_is_named(demo: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert demo.main("nobody:nothing") == 2
    assert "nobody:nothing cannot be used" in capsys.readouterr().out


def test_the_scripted_model_answers_from_what_it_is_given(demo: ModuleType) -> None:
    question = HumanMessage("When is it due?")
    assert "no invoice" in demo.answer([question]).text
    call = AIMessage("", tool_calls=[{"name": "find_invoice", "args": {"month": "May"}, "id": "1"}])
    result = ToolMessage('{"month": "May", "number": "INV-7", "amount": "$5", "due": "June 14"}', tool_call_id="1")
    assert demo.answer([call, result, question]).text == "INV-7 is due on June 14."
    event = SystemMessage("The user opened the billing page.")
    assert "billing page" in demo.answer([call, result, event, question]).text


def test_the_scripted_model_calls_the_tool_for_what_it_does_not_know(demo: ModuleType) -> None:
    reply = demo.answer([HumanMessage("From March to May, please.")])
    assert [call["args"] for call in reply.tool_calls] == [{"month": "March"}]
