"""`python -m engine.chat` as a process: piped lines on s1-nano, and a person at a pseudo-terminal."""

import json
import os
import pty
import re
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from engine import Engine, InputError, SamplingParams
from engine.chat import Arguments, main
from engine.command.arguments import read_model_flags
from engine.command.conversation import Conversation, command_of
from engine.model.embedded import EMBEDDED
from engine.text.tokenizer import Tokenizer
from tests.conformance.lab import ANSWERS, ENDLESS, path
from tests.conformance.scripted import IM_START, write_scripted_checkpoint
from tests.engine.test_startup import called, imported

ROOT = Path(__file__).parents[2]
CPU = ("--device", "cpu", "--dtype", "float32", "--max-num-seqs", "2")
ENV = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "TERM": "xterm-256color"}
LONG = 100_000
"""Tokens of context: what a tiny model takes half a minute for."""
FIRST, SECOND = "What is 3 + 4?", "And 5 + 6?"


def program(*flags: object) -> list[str]:
    return [sys.executable, "-m", "engine.chat", *CPU, *map(str, flags)]


def piped(folder: Path, lines: str | bytes, *flags: object) -> tuple[int, str, str]:
    """(exit code, stdout, stderr) of a conversation whose lines come from a pipe."""
    data = lines if isinstance(lines, bytes) else lines.encode()
    done = subprocess.run(program(*flags), input=data, cwd=folder, env=ENV, capture_output=True, timeout=120)
    return done.returncode, done.stdout.decode(), done.stderr.decode()


class Terminal:
    """A conversation at a pseudo-terminal. What is waited for is looked for behind what was waited for before."""

    def __init__(self, *flags: object) -> None:
        self._main, side = pty.openpty()
        # Who leads a session and opens a terminal has its Ctrl-C.
        opened = "import os, sys; os.close(os.open(os.ttyname(0), os.O_RDWR)); os.execv(sys.executable, sys.argv[1:])"
        command = [sys.executable, "-c", opened, *program(*flags)]
        self.process = subprocess.Popen(
            command, stdin=side, stdout=side, stderr=side, env={**ENV, "NO_COLOR": ""}, start_new_session=True
        )
        os.close(side)
        self.raw = b""
        self._seen = 0

    @property
    def text(self) -> str:
        """What was shown, without styles."""
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", self.raw.decode("utf-8", "replace")).replace("\r", "")

    def type(self, text: str) -> None:
        os.write(self._main, text.encode())

    def wait(self, words: str, within: float = 60) -> None:
        deadline = time.monotonic() + within
        while (at := self.text.find(words, self._seen)) < 0:
            ready, _, _ = select.select([self._main], [], [], max(deadline - time.monotonic(), 0))
            assert ready, f"{words!r} did not come:\n{self.text[-2000:]}"
            self.raw += os.read(self._main, 1 << 16)
        self._seen = at + len(words)

    def press_until(self, words: str) -> None:
        """Ctrl-C, again where it came between readline's prompt and its wait: only the next key shows that one."""
        for _ in range(20):
            self.type("\x03")
            with suppress(AssertionError):
                return self.wait(words, within=3)
        raise AssertionError(f"{words!r} did not come:\n{self.text[-2000:]}")

    def end(self) -> int:
        """The exit code, after Ctrl-D."""
        self.type("\x04")
        with suppress(OSError):  # the other side is closed
            while data := os.read(self._main, 1 << 16):
                self.raw += data
        return self.process.wait(60)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._main)


@pytest.fixture
def terminal() -> Iterator:
    """Starts a conversation at a terminal and waits for its first prompt."""
    started: list[Terminal] = []

    def start(*flags: object) -> Terminal:
        started.append(Terminal(*flags))
        started[-1].wait("/help lists the commands\n> ")
        return started[-1]

    yield start
    for each in started:
        each.close()


@pytest.fixture(scope="module")
def endless(tmp_path_factory) -> Path:
    """Thinks the alphabet over and over until it is told to stop, then answers XY."""
    directory = tmp_path_factory.mktemp("endless")
    write_scripted_checkpoint(directory, ENDLESS, max_position_embeddings=LONG)
    return directory


@pytest.fixture(scope="module")
def willing(tmp_path_factory) -> Path:
    """Thinks abc over and over; would end behind each c, and answer ABC."""
    directory = tmp_path_factory.mktemp("willing")
    script = {**path("think", "a", "b", "c"), "c": [IM_START, "a", "b"], "Wait": ["a", "b"], "\n": ["a", "b"]}
    write_scripted_checkpoint(
        directory, {**script, IM_START: ["answer", "W", "^"], **ANSWERS}, max_position_embeddings=LONG
    )
    return directory


def test_the_answer_is_what_the_next_question_is_asked_behind(tmp_path):
    """As one request with the messages of both, of which the answer's holds no thinking."""
    code, out, err = piped(tmp_path, f"{FIRST}\n\n{SECOND}\n/save said.json\n")
    assert code == 0, err
    [line] = (tmp_path / "said.json").read_text().splitlines()
    messages = json.loads(line)["messages"]
    assert [m["role"] for m in messages] == ["user", "assistant"] * 2
    assert [m["content"] for m in messages[::2]] == [FIRST, SECOND]
    with Engine(EMBEDDED, device="cpu", dtype="float32") as engine:
        first, second = (engine.generate([{"messages": m}])[0].outputs[0] for m in (messages[:1], messages[:3]))
    assert out == f"{first.text}\n{second.text}\n"
    assert [m["content"] for m in messages[1::2]] == [first.answer, second.answer]
    assert first.reasoning and first.reasoning not in line
    assert err.splitlines()[-1] == "4 messages are in said.json"


def test_commands(tmp_path):
    (tmp_path / "there.json").write_text("precious")
    lines = [
        *("/end", "/retry", "/undo", "/save there.json", "/no such", "/undo 3", "/budget few"),
        *("/system Be brief.\\", "Be right.", "/budget 4", "/min 9"),
        *("two \\", "lines", "/retry", FIRST, "/undo", "/budget off", "/min 2", "/wait 2 Hmm, so", "/temp 0.5"),
        *("/seed 7", "/max 300", "/show", "/save there.json", "/save a/b", "/save said.json", "/clear", "/save x"),
        *("/system", "/show", "/quit", FIRST),
    ]
    code, out, err = piped(tmp_path, "\n".join(lines), "--top-k", 5)
    assert code == 0, err
    said = err.partition("/help lists the commands\n")[2].splitlines()
    moved = ["/budget off", "/min 2", "/wait 2 Hmm, so", "/temp 0.5", "/seed 7", "/max 300"]
    assert said == [
        "/end is for while it thinks: type it and Enter, or press Ctrl-C, and it answers",
        "error: /retry: nothing was asked yet",
        "error: /undo: nothing was answered yet",
        "error: /save: nothing was answered yet",
        "error: '/no' is no command; /help lists them, and behind a space it is a question",
        "error: /undo takes nothing behind it; leave out '3'",
        "error: /budget is 'few'; give a whole number or off",
        "error: min_thinking_tokens 9 is above thinking_token_budget 4; lower it or raise the budget",
        f"taken back: {FIRST!r}",
        *moved,
        "/system Be brief.\\nBe right.",
        "--top-k 5",
        "1 question answered",
        "error: /save: there.json is there already; choose another name",
        "error: /save: a/b cannot be written: No such file or directory; choose another name",
        "3 messages are in said.json",
        "error: /save: nothing was answered yet",
        *moved,
        "/system (the chat template's own)",
        "--top-k 5",
        "0 questions answered",
    ]
    assert (tmp_path / "there.json").read_text() == "precious"
    system, question, answer = json.loads((tmp_path / "said.json").read_text())["messages"]
    assert (system["content"], question["content"]) == ("Be brief.\nBe right.", "two \nlines")
    with Engine(EMBEDDED, device="cpu", dtype="float32") as engine:
        params = SamplingParams(thinking_token_budget=4)
        asked = {"messages": [system, question]}
        first = engine.generate([asked], params)[0].outputs[0]
    assert answer["content"] == first.answer
    assert out.startswith(f"{first.text}\n{first.text}\n"), "/retry asks the same, not behind its own answer"


def test_what_the_context_does_not_hold_is_refused_and_nothing_is_lost(tmp_path):
    long = "1 + " * 150
    lines = [long, FIRST, SECOND, "And 2 + 2? " * 16, "/undo", "/undo", "/retry", "/save said.json"]
    code, out, err = piped(tmp_path, "\n".join(lines), "--max-model-len", 200)
    assert code == 0, err
    errors = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 2, err
    assert "the context holds 200; shorten the prompt" in errors[0] and "/undo" not in errors[0]
    assert "200" in errors[1] and errors[1].endswith("; /undo or /clear makes room for it, then /retry")
    asked = [m["content"] for m in json.loads((tmp_path / "said.json").read_text())["messages"][::2]]
    assert asked == [lines[3].strip()]
    assert out.count("<|im_start|>answer") == 3


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--temprature", "1"], "unrecognized options: --temprature, 1 (did you mean --temperature?)"),
        (["--prompt", "x"], "unrecognized options: --prompt, x"),
        (["--seed", "1", "--seed", "2"], "--seed is given 2 times"),
        (["--n", "2"], "--n is not for chats"),
        (["--pause-tokens", "3"], "--pause-tokens is not for chats"),
        (["--page-size", "0"], "page_size is 0"),
        (["--thinking-format", "none", "--thinking-extensions", "1"], "thinking_extensions is set and the thinking"),
        (["--system", "1 + " * 900], "the context holds 2048"),
        (["--model", "/no/such/model"], "is no directory"),
    ],
)
def test_bad_flags_are_found_before_the_model_loads(tmp_path, capfd, flags, message):
    """The weights are missing here, and nobody notices."""
    model = tmp_path / "model"
    shutil.copytree(EMBEDDED, model)
    for weights in model.glob("*.safetensors"):
        weights.unlink()
    assert main([*(() if "--model" in flags else ("--model", str(model))), *CPU, *flags]) == 2
    out, err = capfd.readouterr()
    assert (out, err.count("\n")) == ("", 1) and err.startswith("error: ") and message in err


def test_help_and_bad_flags_import_nothing_heavy():
    assert imported(called(*(("engine.chat", word) for word in ("--help", "--no-such-flag")))) == []


def test_flags_are_those_of_generate():
    flags = read_model_flags(Arguments, ["--seed", "4", "--thinking-token-budget", "7", "--system", "s"], "chat")
    params = flags.sampling_params(SamplingParams(top_k=9))
    assert params == SamplingParams(top_k=9, seed=4, thinking_token_budget=7)
    assert (flags.engine_config().seed, flags.model_name, flags.system) == (4, "s1-nano", "s")


def test_lines_that_are_no_text_end_it(tmp_path):
    code, out, err = piped(tmp_path, FIRST.encode() + b"\ncaf\xe9\n" + SECOND.encode())
    assert code == 2 and out.count("<|im_start|>answer") == 1
    assert err.splitlines()[-1] == "error: standard input:2: is not UTF-8 text (unexpected end of data)"


def test_an_answer_that_fails_is_not_kept_and_told_by_the_exit_code(tmp_path, willing):
    banned = range(Tokenizer.load(willing).size)
    flags = ("--model", willing, "--kv-cache-tokens", 4096, "--thinking-format", "none", "--banned-token-ids", *banned)
    code, out, err = piped(tmp_path, "why\n/show\n", *flags)
    assert (code, out.strip()) == (1, "")
    assert "error: no token could be drawn" in err and "\n0 questions answered\n" in err


@pytest.mark.parametrize(("number", "code", "said"), [(signal.SIGINT, 130, "interrupted"), (15, 143, "terminated")])
def test_signals_end_a_conversation_without_a_terminal(endless, number, code, said):
    """The first SIGINT ends the thinking, and who waits for a line is ended by it."""
    flags = ("--model", endless, "--kv-cache-tokens", LONG)
    pipe = subprocess.PIPE
    with subprocess.Popen(program(*flags), stdin=pipe, stdout=pipe, stderr=pipe, env=ENV, bufsize=0) as process:
        assert process.stdin and process.stdout and process.stderr
        process.stdin.write(b"why\n")
        seen = process.stdout.read(50)
        if number == signal.SIGINT:
            process.send_signal(number)
            while not seen.endswith(b"Final Answer:XY\n"):
                seen += process.stdout.read(1)
        process.send_signal(number)
        assert process.wait(60) == code
        err = process.stderr.read().decode()
    assert err.splitlines()[-1] == said and "Traceback" not in err


def test_who_reads_no_more_ends_it(tmp_path):
    pipe = subprocess.PIPE
    with subprocess.Popen(program(), stdin=pipe, stdout=pipe, stderr=pipe, env=ENV) as process:
        assert process.stdin and process.stdout and process.stderr
        process.stdout.close()
        process.stdin.write(FIRST.encode() + b"\n")
        process.stdin.flush()
        assert process.wait(60) == 1
        assert "Error" not in process.stderr.read().decode()


def test_ctrl_c_ends_the_thinking_and_an_answer_follows(terminal, endless, tmp_path):
    chat = terminal("--model", endless, "--kv-cache-tokens", LONG)
    chat.type("why\n")
    chat.wait("xyzabcdefghij")
    chat.type("\x03")
    chat.wait("<|im_start|>answer\nFinal Answer:XY\n")
    chat.wait("thinking ended: client · finished: stop\n")
    chat.wait("> ")
    chat.press_until("/quit or Ctrl-D ends the conversation\n> ")
    chat.type(f"/save {tmp_path}/said.json\n")
    chat.wait("2 messages are in ")
    assert json.loads((tmp_path / "said.json").read_text())["messages"][1]["content"] == "Final Answer:XY"
    chat.wait("> ")
    assert chat.end() == 0
    assert b"\x1b[2ma\x1b[0m" in chat.raw and b"\x1b[1mX\x1b[0m" in chat.raw, "dim and bright"
    assert re.search(rb"\x1b\[[0-9;]*7mFinal", chat.raw), "forced"


def test_a_second_ctrl_c_aborts_the_answer_which_is_not_kept(terminal, endless):
    chat = terminal("--model", endless, "--kv-cache-tokens", LONG, "--min-answer-tokens", LONG)
    for typed in ("why\n", "/retry\n"):
        chat.type(typed)
        chat.wait("xyzabcdefghij")
        chat.type("\x03")
        chat.wait("Final Answer:XYZXYZ")
        chat.type("\x03")
        chat.wait("thinking ended: client · finished: abort\n")
        chat.wait("not kept, since there is no whole answer; /retry asks again\n> ")
    chat.type("/undo\n")
    chat.wait("/undo: nothing was answered yet\n> ")
    assert chat.end() == 0


def test_what_is_typed_while_it_thinks(terminal, endless):
    """Of this answer: /end and /budget; all else is for after it."""
    chat = terminal("--model", endless, "--kv-cache-tokens", LONG)
    for typed, why in (("/end\n", "client"), ("/budget 20\n", "budget"), ("/budget x\n/show\n/end\n", "client")):
        chat.type("why\n")
        chat.wait("xyzabcdefghij")
        chat.type(typed)
        chat.wait("Final Answer:XY\n")
        chat.wait(f"thinking ended: {why} · finished: stop\n")
    assert "error: /budget is 'x'; give a whole number or off\n" in chat.text
    chat.wait("> /show\n/budget off\n")
    chat.wait("3 questions answered\n> ")
    chat.type("why\n")
    chat.wait("xyzabcdefghij")
    chat.type("/end\n")
    assert chat.end() == 0, "Ctrl-D while an answer is written ends it behind that answer"


def test_wait_while_it_thinks_extends_it_once(terminal, willing):
    """The line is there before the question is asked, and thinking goes on for long."""
    chat = terminal("--model", willing, "--kv-cache-tokens", LONG, "--min-thinking-tokens", 3000)
    chat.type("why\n/wait\n")
    chat.wait("Wait")
    chat.wait("<|im_start|>answerABC\n")
    chat.wait("1 extension · thinking ended: natural · finished: stop\n")
    chat.wait("> ")
    assert chat.end() == 0


def test_a_model_does_not_steer_the_terminal(terminal):
    chat = terminal("--thinking-extensions", 1, "--thinking-extension-str", "\x1b[2J")
    chat.type(f"{FIRST}\\\n")
    chat.wait(". ")
    chat.type("please\n")
    chat.wait("\ufffd[2J")
    chat.wait("1 extension")
    chat.wait("> ")
    assert chat.end() == 0
    assert b"\x1b[2J" not in chat.raw


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("/budget", "/budget needs a whole number or off"),
        ("/budget -1", "thinking_token_budget is -1; give a whole number from 0"),
        ("/min off", "/min is 'off'; give a whole number"),
        ("/min " + "9" * 5000, "/min is '999"),
        ("/wait", "/wait needs a whole number"),
        ("/wait 1 " + "x" * 5000, "thinking_extension_str has 5,000 bytes"),
        ("/temp nan", "temperature is nan"),
        ("/seed 1.5", "/seed is '1.5'; give a whole number or off"),
        ("/max 0", "max_tokens is 0"),
        ("/save", "/save needs the name of a file"),
        ("/save a\0b", "cannot be written: embedded null byte"),
        ("/save .", "/save: . is there already"),
        ("/clear all", "/clear takes nothing behind it"),
        ("/BUDGET 3", "'/BUDGET' is no command"),
        ("/", "'/' is no command"),
    ],
)
def test_bad_commands_change_nothing(tmp_path, monkeypatch, text, message):
    monkeypatch.chdir(tmp_path)
    params = SamplingParams(thinking_token_budget=9, max_tokens=99)
    conversation = Conversation(params, "s", [("q", "a")])
    with pytest.raises(InputError, match=re.escape(message)):
        conversation.obey(*command_of(text))
    assert (conversation.params, conversation.system, conversation.turns) == (params, "s", [("q", "a")])
    assert not list(tmp_path.iterdir())


def test_again_is_the_question_that_has_no_answer_or_the_last_one_in_its_place():
    conversation = Conversation(SamplingParams(), None, [("one", "1"), ("two", "2")])
    assert conversation.again() == ("two", 1)
    conversation.keep(1, "two", "II")
    assert conversation.turns == [("one", "1"), ("two", "II")]
    conversation.unanswered = "three"
    assert conversation.obey("/undo", "") == "taken back: 'two'"
    assert conversation.again() == ("three", 1)
    conversation.keep(1, "three", "3")
    assert conversation.again() == ("three", 1) and conversation.unanswered is None
