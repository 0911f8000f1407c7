import json
import subprocess
import sys
import textwrap

import pytest

from invariances.cli.main import COMMANDS, main
from invariances.cli.parsing import build_parser, explain, split_docstring
from invariances.system.errors import UserError

LIGHT = [["--help"], *([name, "--help"] for name in COMMANDS if name not in ("fit", "fit-autoencoder"))]


def test_light_help_is_quick_and_needs_no_torch():
    """All light commands in one process: no torch, and under 1.5 s of processor time each, start included."""
    script = f"""
        import json, sys, time
        from invariances.__main__ import main
        seconds = {{}}
        for words in {LIGHT!r}:
            start = time.process_time()
            status = main(words)
            seconds[" ".join(words)] = time.process_time() - start
            print(json.dumps([words, status, seconds[" ".join(words)], "torch" in sys.modules]), file=sys.stderr)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    reports = [json.loads(line) for line in done.stderr.splitlines() if line.startswith("[")]
    assert len(reports) == len(LIGHT)
    for words, status, seconds, torch in reports:
        assert status == 0, words
        assert seconds < 1.5, words
        assert not torch, words


@pytest.mark.parametrize("words", [*LIGHT, ["fit", "--help"], ["fit-autoencoder", "--help"]])
def test_help_ends_with_an_example(run, words):
    status, out, _ = run(*words)
    assert status == 0
    assert "example" in out.lower()
    assert "invariances" in out.strip().splitlines()[-1]


def test_unknown_commands_name_the_nearest(run):
    status, _, err = run("evalute")
    assert status == 2
    assert "'evaluate'" in err
    assert err.count("\n") == 1


def test_no_command_shows_them_all(run):
    status, _, err = run()
    assert status == 2
    assert all(name in err for name in COMMANDS)


def test_a_fault_of_ours_is_status_1_and_debug_shows_the_trace(run, monkeypatch):
    def broken(folder: str) -> None:
        """Break.

        Example:
            invariances evaluate x
        """
        raise RuntimeError("a gasket\nblew")

    monkeypatch.setattr("invariances.cli.main._function", lambda home: broken)
    status, _, err = run("evaluate", "x")
    assert status == 1
    assert "a gasket blew" in err
    assert "Traceback" not in err
    status, _, err = run("evaluate", "x", "--debug")
    assert status == 1
    assert "Traceback" in err


def test_user_errors_are_status_2_and_debug_shows_their_trace_too(run, tmp_path):
    status, out, err = run("evaluate", tmp_path / "nowhere")
    assert (status, out) == (2, "")
    assert "does not exist" in err
    assert "Traceback" not in err
    assert "Traceback" in run("evaluate", tmp_path / "nowhere", "--debug")[2]


@pytest.mark.parametrize(
    "error", [PermissionError(13, "no", "x.json"), OSError(28, "No space left on device")]
)
def test_what_the_system_refuses_is_the_users_to_mend(run, monkeypatch, error):
    def refused(folder: str) -> None:
        """Refuse.

        Example:
            invariances evaluate x
        """
        raise error

    monkeypatch.setattr("invariances.cli.main._function", lambda home: refused)
    status, _, err = run("evaluate", "x")
    assert status == 2
    assert "permission" in err or "disk is full" in err


def test_interrupts_are_status_130(monkeypatch):
    def interrupted(argv: list[str]) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("invariances.cli.main._function", lambda home: interrupted)
    assert main(["fit"]) == 130


def command(folder: str, images: list[str], n: int = 8, quick: bool = False) -> None:
    """Do it.

    Args:
        folder: Where.
        images: Which.
        n: How many.
        quick: Whether.

    Example:
        invariances command x y
    """


def test_a_typed_function_is_a_command():
    parser = build_parser(command, "invariances command")
    found = vars(parser.parse_args(["runs/a", "1.png", "2.png", "--n", "3"]))
    assert found == {"folder": "runs/a", "images": ["1.png", "2.png"], "n": 3, "quick": False}
    assert split_docstring(command.__doc__) == ("Do it.", "example:\n  invariances command x y")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["x", "y", "--quik", "true"], "'quik' is not an option; nearest: 'quick'"),
        (["--folder", "x", "y"], "'folder' is not an option, but a word of its own: leave out the --"),
        (["x", "y", "--n", "three"], "n must be a whole number, not 'three'"),
        (["x", "y", "--quick=maybe"], "quick must be true or false, not 'maybe'"),
        (["x", "y", "--quick", "maybe"], "'maybe' is one word too many"),
        (["x"], "images is missing"),
        ([], "folder and images are missing"),
    ],
)
def test_wrong_words_get_a_sentence(words, expected):
    from invariances.cli.parsing import parse

    with pytest.raises(UserError) as error:
        parse(build_parser(command, "invariances command"), words)
    assert expected in str(error.value)


def test_explain_flattens_what_it_does_not_know():
    assert explain("some\n   thing", []) == "some thing"
