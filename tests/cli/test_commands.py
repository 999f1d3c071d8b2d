"""The command `ttl-history`."""

from __future__ import annotations

import json
import os
import re
import shlex
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import datetime
from pathlib import Path
from uuid import UUID

import pytest
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from typer.testing import CliRunner, Result

from langchain_ttl_history import SessionBuffer
from langchain_ttl_history.cli.commands import app
from langchain_ttl_history.storage import SQLiteStorage
from tests.blocks import blocks_of, run

Call = Callable[..., Result]


class Note(HumanMessage):
    """A message class of a program's own."""


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/sessions.db"


@pytest.fixture
def buffer(url: str) -> Iterator[SessionBuffer]:
    """Two sessions of alice and one of bob."""
    with SessionBuffer(url, allow_types=[Note]) as buffer:
        history = buffer.history("alice", "support")
        history.add_messages(
            [
                HumanMessage("Rain in [bold]Rome[/bold]? \x1b[2J"),
                AIMessage("", tool_calls=[{"name": "rain", "args": {"city": "Rome"}, "id": "1"}]),
                ToolMessage("no", tool_call_id="1"),
                AIMessage("No."),
            ]
        )
        buffer.history("alice", "other").add_system_message("The user signed in.")
        buffer.history("bob", "support").add_system_message("The user signed in.")
        yield buffer


@pytest.fixture
def call(buffer: SessionBuffer, url: str) -> Call:
    def call(*words: str, input: str | None = None) -> Result:
        return CliRunner().invoke(app, ["--url", url, *words], input=input, env={"COLUMNS": "100"})

    return call


def test_sessions_lists_those_of_a_user(call: Call) -> None:
    done = call("sessions", "alice")
    assert done.exit_code == 0
    rows = [line.split()[:4] for line in done.stdout.splitlines()[1:]]
    assert sorted(rows) == [["alice", "other", "1", "0"], ["alice", "support", "4", "0"]]


def test_sessions_lists_those_of_everyone_when_asked_to(call: Call) -> None:
    assert {line.split()[0] for line in call("sessions", "--all").stdout.splitlines()[1:]} == {"alice", "bob"}
    for words in (["sessions"], ["sessions", "alice", "--all"], ["--idle-ttl", "-5", "stats"]):
        refused = call(*words)
        assert refused.exit_code == 2
        assert len(refused.stderr.splitlines()) == 1


def test_a_user_who_cannot_be_one_is_refused_when_listed_too(call: Call) -> None:
    assert call("sessions", "").exit_code == call("info", "", "s").exit_code == 2


@pytest.mark.parametrize("columns", ["80", None], ids=["narrow", "piped"])
def test_no_name_and_nothing_said_is_cut_off(buffer: SessionBuffer, url: str, columns: str | None) -> None:
    user, session, link = "auth0|" + "7" * 32, str(UUID(int=2**127)), "https://example.com/" + "path/" * 20 + "end"
    buffer.history(user, session).add_messages([HumanMessage(f"See {link} please")])
    environment = {key: value for key, value in os.environ.items() if key != "COLUMNS"}
    environment |= {"COLUMNS": columns} if columns else {}
    command = Path(sys.executable).with_name("ttl-history")
    for words in (["sessions", user], ["info", user, session], ["show", user, session]):
        done = subprocess.run(
            [command, "--url", url, *words], check=True, capture_output=True, env=environment, text=True
        )
        assert "…" not in done.stdout
        if columns is None:  # for a program, which looks for the whole of it on one line
            assert (f"See {link} please" if "show" in words else session) in done.stdout


@pytest.mark.parametrize("columns", [20, 40, 60, 80])
def test_the_ids_stay_readable_on_a_narrow_terminal(buffer: SessionBuffer, url: str, columns: int) -> None:
    user, session = "carol@example.com", str(UUID(int=2**127))
    buffer.history(user, session).add_messages([HumanMessage("hello")])
    done = CliRunner().invoke(app, ["--url", url, "sessions", user], env={"COLUMNS": str(columns)})
    head, *rows = done.stdout.splitlines()
    assert {len(head), *map(len, rows)} == {columns}
    second = head.index("session")
    third = head.index("time left") if columns == 40 else head.find("messages")
    assert "".join(row[:second].strip() for row in rows) == user
    assert "".join(row[second : third if third > 0 else None].strip() for row in rows) == session
    assert len(rows) <= 4
    assert ("checkpoints" in head) == (columns == 80)


@pytest.mark.parametrize("columns", ["0", "1", "10"])
def test_a_terminal_without_width_shows_all_the_same(buffer: SessionBuffer, url: str, columns: str) -> None:
    for words in (["sessions", "alice"], ["info", "alice", "support"], ["show", "alice", "support"]):
        shown = CliRunner().invoke(app, ["--url", url, *words], env={"COLUMNS": columns}).stdout
        assert ("support" if "show" not in words else "human") in shown


def test_an_id_takes_one_row_whatever_it_holds(call: Call, buffer: SessionBuffer) -> None:
    buffer.history("eve\nbob", "a\nb").add_messages([HumanMessage("one\ntwo")])
    (row,) = call("sessions", "eve\nbob").stdout.splitlines()[1:]
    assert row.split()[:2] == [r"eve\nbob", r"a\nb"]
    assert [line.split()[1] for line in call("info", "eve\nbob", "a\nb").stdout.splitlines()[:2]] == row.split()[:2]
    said = [line.split()[-1] for line in call("show", "eve\nbob", "a\nb").stdout.splitlines()]
    assert said == ["one", "two"]


def test_a_session_that_cannot_be_read_does_not_hide_the_others(call: Call, buffer: SessionBuffer) -> None:
    buffer.history("alice", "notes").add_messages([Note("my note")])
    for words in (["sessions", "alice"], ["sessions", "--all", "--json"]):
        listed = call(*words)
        assert listed.exit_code == 1
        assert "support" in listed.stdout
        assert "other" in listed.stdout
        assert "--allow-type MODULE:CLASS" in listed.stderr
    assert call("--allow-type", f"{__name__}:Note", "sessions", "alice").exit_code == 0


def test_what_a_stream_has_no_letter_for_is_spelled_out(url: str, buffer: SessionBuffer) -> None:
    buffer.history("alice", "📦").add_messages([HumanMessage("où → là \ud83d")])
    command = Path(sys.executable).with_name("ttl-history")
    show, sessions = ["show", "alice", "📦"], ["sessions", "alice"]
    runs = [("ascii", show), ("ascii", sessions), ("ascii", [*sessions, "--json"]), ("cp1252", show), ("utf-8", show)]
    for encoding, words in runs:
        environment = {**os.environ, "PYTHONIOENCODING": f"{encoding}:strict"}
        subprocess.run([command, "--url", url, *words], check=True, capture_output=True, env=environment)


def test_a_file_that_is_not_there_is_not_made_by_looking(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["--url", f"sqlite:///{tmp_path}/typo.db", "stats"])
    assert (done.exit_code, [*tmp_path.iterdir()]) == (2, [])
    assert "typo.db" in done.stderr


def test_an_empty_file_is_not_made_into_a_storage_by_looking(tmp_path: Path) -> None:
    (tmp_path / "empty.db").touch()
    done = CliRunner().invoke(app, ["--url", f"sqlite:///{tmp_path}/empty.db", "stats"])
    assert done.exit_code == 2
    assert "holds no sessions" in done.stderr
    assert [path.stat().st_size for path in tmp_path.iterdir()] == [0]


@pytest.mark.parametrize(
    ("words", "advice"),
    [
        (["--url", "sessions.db", "stats"], "sqlite:///PATH"),
        (["--url", "redis:/me:secret@host", "stats"], "redis://HOST:PORT/0"),
        (["--url", "sqlite:///sessions.db?mode=ro", "stats"], "without options"),
        (["--url", "sqlite:///~/sessions.db", "stats"], "~ is not expanded here, write $HOME"),
        (["--url", "postgres://host", "stats"], "redis://host:6379/0"),
        (["--url", "sqlite:///theirs.db", "stats"], "name a different one"),
        (["--idle-ttl", "0", "stats"], "--idle-ttl must be more than 0 seconds"),
        (["--idle-ttl", "nan", "stats"], "--idle-ttl must be more than 0 seconds"),
        (["stats", "--url", "sqlite:///sessions.db"], "ttl-history --url ... stats"),
        (["show", "ada", "s1", "--url=sqlite:///sessions.db"], "ttl-history --url ... show"),
        (["stats", "--allow-type", "my_app:Note"], "ttl-history --allow-type ... stats"),
        (["stats", "--prefix", "acme"], "ttl-history --prefix ... stats"),
        (["--prefix", "acme", "stats"], "no Redis is known for 'sqlite' URLs"),
    ],
)
def test_an_error_names_a_way_out_that_a_shell_has(
    url: str, buffer: SessionBuffer, words: list[str], advice: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with closing(sqlite3.connect("theirs.db")) as theirs:
        theirs.execute("CREATE TABLE theirs (x)")
    done = CliRunner().invoke(app, words, env={"TTL_HISTORY_URL": url})
    assert (done.exit_code, len(done.stderr.splitlines())) == (2, 1)
    assert advice in done.stderr
    for word in ("Storage(s)", "pass a Storage", "None", "not there yet", "secret"):
        assert word not in done.stderr


def test_the_help_says_where_options_go(call: Call) -> None:
    for words in (["--help"], ["stats", "--help"], ["show", "--help"]):
        assert "before the command" in CliRunner().invoke(app, words, env={"COLUMNS": "100"}).stdout


def test_a_name_behind_two_dashes_is_no_option(call: Call) -> None:
    assert call("show", "--", "--url", "s1").stderr == "there is no session 's1' of '--url'\n"


def test_sessions_and_info_speak_json(call: Call) -> None:
    listed = [json.loads(line) for line in call("sessions", "--all", "--json").stdout.splitlines()]
    assert len(listed) == 3
    info = json.loads(call("info", "alice", "support", "--json").stdout)
    assert (info["user_id"], info["session_id"], info["messages"]) == ("alice", "support", 4)
    assert datetime.fromisoformat(info["expires_at"]) > datetime.fromisoformat(info["last_used_at"])


def test_info_tells_of_a_session(call: Call) -> None:
    words = call("info", "alice", "support").stdout.split()
    assert words[words.index("messages") + 1] == "4"
    assert "created" in words


def test_show_puts_a_result_beneath_its_call(call: Call) -> None:
    lines = [line.strip() for line in call("show", "alice", "support").stdout.splitlines()]
    at = next(place for place, line in enumerate(lines) if "rain(" in line)
    assert lines[at] == 'ai  rain({"city": "Rome"})'
    assert lines[at + 1] == "→ no"
    assert lines[at + 2] == "ai  No."


def test_show_names_what_is_no_text(call: Call, buffer: SessionBuffer) -> None:
    calls = [{"name": name, "args": {}, "id": name} for name in ("draw", "sum")]
    unreadable = {"name": "sum", "args": "{", "id": "3", "error": None, "type": "invalid_tool_call"}
    buffer.history("alice", "images").add_messages(
        [
            HumanMessage([{"type": "image", "base64": "aGk=", "mime_type": "image/png"}]),
            AIMessage([{"type": "reasoning", "reasoning": "hm"}, {"type": "text", "text": "See."}], tool_calls=calls),
            ToolMessage([{"type": "image_url", "image_url": {"url": "x"}}], tool_call_id="draw"),
            ToolMessage("no numbers", tool_call_id="sum", status="error"),
            AIMessage("", invalid_tool_calls=[unreadable]),
            ToolMessage("no JSON", tool_call_id="3", status="error"),
        ]
    )
    lines = [line.strip() for line in call("show", "alice", "images").stdout.splitlines()]
    assert lines == [
        "human  [image]",
        "ai  See. [reasoning]",
        "draw({})",
        "→ [image_url]",
        "sum({})",
        "→ no numbers [error]",
        "ai  [unreadable call of sum]",
        "→ no JSON [error]",
    ]


def test_show_takes_nothing_said_for_markup_or_a_control_code(call: Call) -> None:
    shown = call("show", "alice", "support").stdout
    assert r"Rain in [bold]Rome[/bold]? \x1b[2J" in shown
    assert "\x1b" not in shown


def test_show_takes_no_type_of_a_message_for_markup_or_a_control_code(call: Call, buffer: SessionBuffer) -> None:
    odd = HumanMessage("Hi")
    odd.__dict__["type"] = "\x1b[b]"
    buffer.history("alice", "odd").add_messages([odd])
    assert call("show", "alice", "odd").stdout.split() == [r"\x1b[b]", "Hi"]


def test_no_command_that_looks_is_a_use(call: Call, buffer: SessionBuffer, tmp_path: Path) -> None:
    # Used so long ago that the next use would show.
    then = time.time() - 1_000
    with SessionBuffer(SQLiteStorage(tmp_path / "sessions.db", clock=lambda: then)) as earlier:
        earlier.delete("alice", "support")
        earlier.history("alice", "support").add_system_message("long ago")
    before = buffer.info("alice", "support")
    assert before is not None
    assert before.last_used_at.timestamp() == pytest.approx(then)
    for words in (["sessions", "--all"], ["info", "alice", "support"], ["show", "alice", "support"], ["stats"]):
        assert call(*words).exit_code == 0
    assert buffer.info("alice", "support") == before


def test_delete_asks_and_deletes(call: Call, buffer: SessionBuffer) -> None:
    assert call("delete", "alice", "support", input="n\n").exit_code == 1
    assert buffer.info("alice", "support") is not None
    assert call("delete", "alice", "support", input="y\n").exit_code == 0
    assert buffer.info("alice", "support") is None
    assert buffer.info("alice", "other") is not None


@pytest.mark.parametrize(
    ("words", "name"),
    [(("delete", "alice", ""), "session_id"), (("delete", "", "s"), "user_id"), (("forget", ""), "user_id")],
)
def test_nobody_is_asked_about_an_id_that_there_cannot_be(call: Call, words: tuple[str, ...], name: str) -> None:
    done = call(*words, input="y\n")
    assert (done.exit_code, done.stdout, done.stderr) == (2, "", f"{name} must not be empty\n")


def test_forget_deletes_every_session_of_a_user(call: Call, buffer: SessionBuffer) -> None:
    done = call("forget", "alice", "--yes")
    assert done.stdout == "2 sessions deleted\n"
    assert [info.user_id for info in buffer.sessions(all_users=True)] == ["bob"]


@pytest.mark.parametrize("command", ["info", "show", "delete"])
def test_a_session_that_is_not_there_is_named(call: Call, command: str) -> None:
    done = call(command, "alice", "none", *(["--yes"] if command == "delete" else []))
    assert done.exit_code == 1
    assert done.stderr == "there is no session 'none' of 'alice'\n"


def test_stats_and_sweep_count(call: Call) -> None:
    assert call("stats").stdout.startswith("3 sessions, ")
    assert json.loads(call("stats", "--json").stdout)["sessions"] == 3
    assert call("sweep").stdout == "0 expired sessions freed\n"


def test_a_call_that_is_no_json_is_shown_all_the_same(call: Call, buffer: SessionBuffer) -> None:
    odd = {"name": "plot", "args": {"points": {(1, 2): "x"}}, "id": "2"}
    buffer.history("alice", "other").add_messages([AIMessage("", tool_calls=[odd])])
    assert "plot({'points': {(1, 2): 'x'}})" in call("show", "alice", "other").stdout


def test_one_session_is_told_as_one(call: Call, buffer: SessionBuffer) -> None:
    assert call("forget", "bob", "--yes").stdout == "1 session deleted\n"
    buffer.delete("alice", "other")
    assert call("stats").stdout.startswith("1 session, ")


def test_it_runs_as_a_module_as_well(buffer: SessionBuffer, url: str) -> None:
    command = [sys.executable, "-m", "langchain_ttl_history.cli", "--url", url, "stats"]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.startswith("3 sessions, ")


def test_a_class_of_the_programs_own_has_to_be_allowed(call: Call, buffer: SessionBuffer) -> None:
    buffer.history("alice", "notes").add_messages([Note("my note")])
    refused = call("show", "alice", "notes")
    assert refused.exit_code == 1
    assert "Note" in refused.stderr
    allowed = call("--allow-type", f"{__name__}:Note", "show", "alice", "notes")
    assert "my note" in allowed.stdout


def test_a_class_is_found_in_the_folder_the_command_is_called_in(url: str, tmp_path: Path) -> None:
    (tmp_path / "my_notes.py").write_text(
        "from langchain_core.messages import HumanMessage\n\nclass Note(HumanMessage):\n    pass\n"
    )
    command = [Path(sys.executable).with_name("ttl-history"), "--url", url, "--allow-type", "my_notes:Note", "stats"]
    with SessionBuffer(url) as buffer:
        buffer.sweep()
    done = subprocess.run(command, check=False, capture_output=True, cwd=tmp_path, text=True)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    "name", ["nothing", "no.such.module:Class", f"{__name__}:Nothing", f"{__name__}:json", ":", "..a:X"]
)
def test_a_class_that_cannot_be_had_is_named(call: Call, name: str) -> None:
    done = call("--allow-type", name, "stats")
    assert done.exit_code == 2
    assert f"--allow-type {name}" in done.stderr


@pytest.mark.parametrize("url", ["", "memory://"])
def test_without_a_storage_to_look_at_the_way_out_is_named(url: str) -> None:
    done = CliRunner().invoke(app, ["--url", url, "stats"])
    assert done.exit_code == 2
    assert "TTL_HISTORY_URL" in done.stderr


def test_the_url_may_come_from_the_environment(url: str, buffer: SessionBuffer) -> None:
    done = CliRunner().invoke(app, ["stats"], env={"TTL_HISTORY_URL": url})
    assert done.stdout.startswith("3 sessions")


def test_a_storage_that_cannot_be_opened_is_one_line_of_error(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["--url", f"sqlite:///{tmp_path}", "stats"])
    assert done.exit_code == 2
    assert len(done.stderr.splitlines()) == 1


def test_the_command_is_installed(url: str, buffer: SessionBuffer) -> None:
    command = Path(sys.executable).with_name("ttl-history")
    done = subprocess.run([command, "--url", url, "stats"], check=True, capture_output=True, text=True)
    assert done.stdout.startswith("3 sessions")


def test_without_the_extra_the_command_says_what_to_install() -> None:
    program = "import sys; sys.modules['typer'] = None; from langchain_ttl_history.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", program], check=False, capture_output=True, text=True)
    assert done.returncode == 1
    assert 'pip install "langchain-ttl-history[cli]"' in done.stderr


def steady(text: str) -> str:
    """The text without what differs from run to run, and without what fills its lines up."""
    text = re.sub(r"[\d,.]+ ([KM]i)?B\b", "<size>", re.sub(r"\d+ min", "<left>", text))
    return "\n".join(" ".join(line.split()) for line in text.strip().splitlines())


def test_the_page_shows_what_the_commands_print(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    page = Path(__file__).parents[2] / "docs" / "cli.md"
    run(page)
    printed = shown = ""
    for block in blocks_of(page):
        if block.language == "bash":
            for line in block.body.splitlines():
                if line.startswith("ttl-history "):
                    environment = {"TTL_HISTORY_URL": "sqlite:///sessions.db", "COLUMNS": "100"}
                    done = CliRunner().invoke(app, shlex.split(line)[1:], env=environment)
                    assert done.exit_code == 0, done.output
                    printed += done.stdout
        elif block.language == "text":
            shown += block.body
    assert sorted(steady(printed).splitlines()) == sorted(steady(shown).splitlines())
