"""Files of variables, by the rules of the Compose Specification."""

import pytest

from flota.stacks.compose.dotenv import read_raw, read_variables
from flota.stacks.errors import ComposeError

MINE = {"HOME": "/root", "A": "mine"}


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("", {}), ("\n# c\n  # d\n\n", {}), ("K=v", {"K": "v"}), ("K=", {"K": ""}),
        ("K=v\r\nL=w\r\n", {"K": "v", "L": "w"}),
        ("export K=v", {"K": "v"}), ("  K = v  ", {"K": "v"}), ("K: v", {"K": "v"}), ("K", {"K": None}),
        ("A", {"A": "mine"}), ("K=a b c", {"K": "a b c"}), ("K=v # c", {"K": "v"}), ("K=v# c", {"K": "v# c"}),
        ("K=# c", {"K": ""}), ("K='v # c'", {"K": "v # c"}), ("K='v' # c", {"K": "v"}),
        ('K="v # c" # d', {"K": "v # c"}),
        ("K='a\\'b'", {"K": "a'b"}), ('K="{\\"a\\": 1}"', {"K": '{"a": 1}'}), ('K="a\\tb\\n"', {"K": "a\tb\n"}),
        ("K='a\\tb'", {"K": "a\\tb"}), ("K=a\\tb", {"K": "a\\tb"}), ("K='$HOME'", {"K": "$HOME"}),
        ("K=$HOME/x", {"K": "/root/x"}), ('K="${HOME}"', {"K": "/root"}), ('K="\\$HOME"', {"K": "$HOME"}),
        ("X=1\nK=$X", {"X": "1", "K": "1"}), ("A=file\nK=$A", {"A": "file", "K": "mine"}), ("K=${NO:-d}", {"K": "d"}),
        ("K='two\nlines'\nL=1", {"K": "two\nlines", "L": "1"}), ('K="two\nlines"', {"K": "two\nlines"}),
        ("K=a=b=c", {"K": "a=b=c"}), ("a.b-c=1", {"a.b-c": "1"}), ("\ufeffK=v", {"K": "v"}), ("K=v\nK=w", {"K": "w"}),
        ("K=\"\"", {"K": ""}), ("K=$$x", {"K": "$x"}), ("K='' # c", {"K": ""}),
    ],
)  # fmt: skip
def test_what_the_lines_say(text: str, values: dict[str, str | None]) -> None:
    assert read_variables(text, "f.env", MINE) == values


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("A=1\n=x", "f.env:2: '=x' is not KEY=VALUE"),
        ("K='open", "f.env:1: the quote ' is never closed"),
        ('K="open\nX=1', 'f.env:1: the quote " is never closed'),
        ("K='v' x", "f.env:1: 'x' stands behind the closing quote"),
        ("A B=1", "f.env:1: A 'B=1' is not KEY=VALUE"),
        ("\nK=${NO?why}", "f.env:2: K: the variable NO is not set: why"),
        ("K=${", "f.env:1: K: ${ has no closing brace"),
    ],
)
def test_what_is_wrong_names_the_line(text: str, said: str) -> None:
    with pytest.raises(ComposeError) as caught:
        read_variables(text, "f.env", MINE)
    assert str(caught.value).startswith(said)


def test_raw_files_mean_nothing_but_what_they_say() -> None:
    assert read_raw('# c\nK="v" $X # d\nL\nM=\n', "f") == {"K": '"v" $X # d', "L": None, "M": ""}
    with pytest.raises(ComposeError, match="f:1: 'A B=1' is not KEY=VALUE"):
        read_raw("A B=1", "f")
