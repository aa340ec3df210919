"""Workload files: every form, and everything that can be wrong with one."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from common.core.recording import Recording
from common.load import workload_file
from common.load.workload_file import WorkloadError, read_workload
from common.load.workload_forms import Limits
from tests.load.workload_files import conversation, json_lines, packed, sharegpt, table, trace

WORDS = "one two three four five six seven eight nine ten"
QUESTION, ANSWER = "how do you do today", WORDS  # five words, ten words


def limits(**changes: Any) -> Limits:  # noqa: ANN401
    """A tokenizer that counts words, so that expected lengths can be seen."""
    fields: dict[str, Any] = {"wanted": 1_000, "context_tokens": 100, "vocab_size": 10_240, "output_tokens": 32}
    return Limits(**fields | {"count": lambda text: len(text.split())} | changes)


def read(path: Path, **changes: Any) -> Recording:  # noqa: ANN401
    return read_workload(path, limits(**changes))


def lengths(found: Recording) -> list[tuple[int, int]]:
    return [(entry.input_tokens, entry.output_tokens) for entry in found.entries]


def refusal(path: Path, **changes: Any) -> str:  # noqa: ANN401
    with pytest.raises(WorkloadError) as caught:
        read(path, **changes)
    message = str(caught.value)
    assert message.startswith(f"--workload {path}: ")
    assert "\n" not in message
    assert ";" in message or ": " in message.removeprefix(f"--workload {path}: "), "a remedy follows"
    return message


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "file"


# --- ShareGPT


@pytest.mark.parametrize("indent", [None, 2])
def test_sharegpt_takes_the_first_question_and_the_length_of_its_answer(file: Path, indent: int | None) -> None:
    found = read(sharegpt(file, [(QUESTION, ANSWER), (ANSWER, QUESTION)], indent))
    assert found.form == "sharegpt"
    assert lengths(found) == [(5, 10), (10, 5)]
    assert [entry.prompt for entry in found.entries] == [QUESTION, ANSWER]
    assert not found.timed and found.verbatim
    assert found.left_out == {} and found.notes == ()
    assert found.sha256 == hashlib.sha256(file.read_bytes()).hexdigest()


def test_sharegpt_first_turns_are_told_by_who_speaks(file: Path) -> None:
    started_by_gpt = {
        "conversations": [{"from": "gpt", "value": "a b c d"}, *conversation(QUESTION, ANSWER)["conversations"]]
    }
    with_system = {
        "conversations": [{"from": "system", "value": "be kind"}, *conversation(ANSWER, QUESTION)["conversations"]]
    }
    longer = conversation(QUESTION, ANSWER, ("human", "and then"), ("gpt", "no"))
    renamed = {"conversations": [{"from": "user", "value": QUESTION}, {"from": "assistant", "value": QUESTION}]}
    file.write_text(json.dumps([started_by_gpt, with_system, longer, renamed]))
    assert lengths(read(file)) == [(5, 10), (10, 5), (5, 10), (5, 5)]


def test_sharegpt_leaves_out_what_vllm_does_and_says_so(file: Path) -> None:
    long = " ".join(["word"] * 95)
    sharegpt(
        file,
        [
            (QUESTION, ANSWER),
            ("three words only", ANSWER),
            (QUESTION, "so it is"),
            (long, ANSWER),
            (long, QUESTION),
            ("x" * 10_000, ANSWER),
            ("", ""),
        ],
    )
    entries = json.loads(file.read_text())
    entries += [{"conversations": []}, {"conversations": [{"from": "human", "value": QUESTION}]}]
    file.write_text(json.dumps(entries))
    found = read(file)
    assert lengths(found) == [(5, 10), (95, 5)], "95 and 5 just fit into 100"
    assert found.left_out == {
        "with a prompt or answer of under 4 tokens": 3,
        "longer than the context of 100 tokens": 2,
        "without a first answer": 2,
    }
    (note,) = found.notes
    assert "first 9 requests" in note and "2 longer than the context of 100 tokens" in note


def test_a_text_far_beyond_the_context_is_not_even_counted(file: Path) -> None:
    counted: list[str] = []

    def count(text: str) -> int:
        counted.append(text)
        return len(text.split())

    read(json_lines(file, [{"prompt": "y" * 10_000}, {"prompt": QUESTION}]), count=count)
    assert counted == [QUESTION]


def test_conversations_may_stand_on_lines_too(file: Path) -> None:
    assert lengths(read(json_lines(file, [conversation(QUESTION, ANSWER)] * 2))) == [(5, 10)] * 2


# --- prompts


def test_prompts_are_text_or_token_ids_with_the_usual_names_for_the_output(file: Path) -> None:
    entries = [
        {"prompt": QUESTION, "output_tokens": 7},
        {"prompt": QUESTION, "max_tokens": 8},
        {"prompt": [5, 10_239, 0], "output_len": 9.0},
        {"prompt": QUESTION},
        {"prompt": QUESTION, "output_tokens": None, "id": 3},
    ]
    found = read(json_lines(file, entries), output_tokens=11)
    assert found.form == "jsonl"
    assert lengths(found) == [(5, 7), (5, 8), (3, 9), (5, 11), (5, 11)]
    assert found.entries[2].prompt == (5, 10_239, 0)


def test_prompts_may_be_a_json_list_and_unicode(file: Path) -> None:
    file.write_text(json.dumps([{"prompt": "wie geht's né 😀\u2028 gut"}], ensure_ascii=False), encoding="utf-8")
    assert read(file).entries[0].prompt == "wie geht's né 😀\u2028 gut"
    file.write_text(json.dumps({"prompt": "two\u2028lines 😀"}, ensure_ascii=False), encoding="utf-8")
    assert read(file).entries[0].prompt == "two\u2028lines 😀", "only line feeds end a line"


def test_empty_prompts_and_answers_are_left_out(file: Path) -> None:
    entries = [{"prompt": ""}, {"prompt": []}, {"prompt": QUESTION, "max_tokens": 0}, {"prompt": QUESTION}]
    found = read(json_lines(file, entries))
    assert len(found.entries) == 1
    assert found.left_out == {"empty": 3}


# --- traces

AZURE = "TIMESTAMP,ContextTokens,GeneratedTokens"
BURST_GPT = "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type"
MOONCAKE_ROWS = [(27_482, 65, 5), (27_482, 72, 1), (30_535, 22, 16)]


def test_mooncakes_times_are_milliseconds_from_the_first(file: Path) -> None:
    found = read(trace(file, MOONCAKE_ROWS))
    assert found.form == "trace" and found.timed and not found.verbatim
    assert [entry.at_s for entry in found.entries] == pytest.approx([0.0, 0.0, 3.053])
    assert lengths(found) == [(65, 5), (72, 1), (22, 16)]
    assert found.notes == (), "equal times are nothing special"


def test_hash_ids_become_blocks_of_512_tokens(file: Path) -> None:
    rows = [(0, 1_100, 5), (1, 1_030, 5), (2, 600, 5)]
    found = read(trace(file, rows, [[46, 9, 57], [46, 9, 2_354], [46]]), context_tokens=4_096)
    assert found.block_tokens == 512
    assert [entry.blocks for entry in found.entries] == [(0, 1, 2), (0, 1, 3), (0,)]
    first, second, third = (request.prompt for request in found.generate(3, 0))
    assert first[:1_024] == second[:1_024] and first[1_024:1_030] != second[1_024:]
    assert first[:512] == third[:512] and first[512:600] != third[512:]


def test_a_trace_with_chat_ids_has_seconds_and_blocks_of_16_tokens(file: Path) -> None:
    """The Qwen traces name their columns as Mooncake does, with other units."""
    rows = [
        {
            "chat_id": 159,
            "parent_chat_id": -1,
            "timestamp": 61.114,
            "input_length": 52,
            "output_length": 3,
            "hash_ids": [9, 8, 7, 6],
        },
        {
            "chat_id": 160,
            "parent_chat_id": 159,
            "timestamp": 62.5,
            "input_length": 40,
            "output_length": 8,
            "hash_ids": [9, 8],
        },
    ]
    found = read(json_lines(file, rows))
    assert found.block_tokens == 16
    assert [entry.at_s for entry in found.entries] == pytest.approx([0.0, 1.386])


@pytest.mark.parametrize(
    ("header", "rows", "at_s"),
    [
        ("timestamp,input_length,output_length", ["1000,40,5", "2500,50,6"], 1.5),
        ("output_length,Timestamp, Input_Length", ["5,1000,40", "6,2500,50"], 1.5),
        (AZURE, ["2023-11-16 18:17:03.9799600,40,5", "2023-11-16 18:17:04.0319600,50,6"], 0.052),
        (AZURE, ["2024-05-10 00:00:00.009930+00:00,40,5", "2024-05-10 02:00:01.009930+02:00,50,6"], 1.0),
        (BURST_GPT, ["5,ChatGPT,40,5,45,API log", '45.5,GPT-4,50.0,6,56,"a, b"'], 40.5),
        ("timestamp,input_length,output_length", ["2026-01-01T00:00:00Z,40,5", "2026-01-01T00:00:02Z,50,6"], 2.0),
    ],
    ids=["mooncake", "other order", "azure 2023", "azure 2024", "burstgpt", "dates"],
)
def test_tables(file: Path, header: str, rows: list[str], at_s: float) -> None:
    found = read(table(file, header, rows))
    assert found.form == "trace"
    assert lengths(found) == [(40, 5), (50, 6)]
    assert [entry.at_s for entry in found.entries] == pytest.approx([0.0, at_s], abs=1e-6)


def test_failed_requests_of_a_trace_are_left_out(file: Path) -> None:
    """BurstGPT keeps them, with no answer."""
    rows = ["5,GPT-4,40,0", "6,GPT-4,0,0", "7,GPT-4,40,9", "9,GPT-4,40,9"]
    found = read(table(file, "Timestamp,Model,Request tokens,Response tokens", rows))
    assert found.left_out == {"empty": 2}
    assert [entry.at_s for entry in found.entries] == [0.0, 2.0], "times count from the first that is sent"


def test_an_unsorted_trace_is_sorted_and_says_so(file: Path) -> None:
    found = read(trace(file, [(3_000, 30, 3), (1_000, 10, 1), (3_000, 31, 4), (2_000, 20, 2)]))
    assert lengths(found) == [(10, 1), (20, 2), (30, 3), (31, 4)], "equal times keep their order"
    assert [entry.at_s for entry in found.entries] == [0.0, 1.0, 2.0, 2.0]
    (note,) = found.notes
    assert "sorted by time" in note


def test_where_times_go_back_the_first_requests_by_time_are_kept(file: Path) -> None:
    newest_first = [(1_000.0 * place, 40 + place, 5) for place in reversed(range(60))]
    found = read(trace(file, newest_first), wanted=4)
    assert lengths(found) == [(40, 5), (41, 5), (42, 5), (43, 5)]
    assert [entry.at_s for entry in found.entries] == [0.0, 1.0, 2.0, 3.0]


def test_lengths_beyond_the_context_are_left_out_and_counted(file: Path) -> None:
    found = read(trace(file, [(0, 95, 5), (1, 96, 5), (2, 10**30, 5), (3, 5, 2**63)]))
    assert lengths(found) == [(95, 5)]
    assert found.left_out == {"longer than the context of 100 tokens": 3}


def test_nothing_that_fits_is_an_error_with_the_way_out(file: Path) -> None:
    message = refusal(trace(file, [(0, 960, 5)] * 3))
    assert "none of its 3 requests can be sent (3 longer than the context of 100 tokens)" in message
    assert '--engine-args "--max-model-len N"' in message
    assert "longer prompts and answers" in refusal(sharegpt(file, [("hi", "ho")]))


# --- how the bytes lie


FORMS: dict[str, Callable[[Path], Path]] = {
    "sharegpt": lambda path: sharegpt(path, [(QUESTION, ANSWER)] * 3, indent=1),
    "jsonl": lambda path: json_lines(path, [{"prompt": QUESTION}] * 3),
    "trace": lambda path: trace(path, [(0, 40, 5), (10, 50, 6), (20, 60, 7)]),
    "table": lambda path: table(
        path, "timestamp,input_length,output_length", ["1000.000,40,5", "1010.000,50,6", "1020.000,60,7"]
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_gzip_is_known_by_its_bytes(file: Path, form: str) -> None:
    plain = FORMS[form](file)
    unpacked, found = read(plain), read(packed(plain))
    assert found.entries == unpacked.entries
    assert found.sha256 == hashlib.sha256(packed(plain).read_bytes()).hexdigest() != unpacked.sha256


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("compressed", [False, True])
def test_marks_line_ends_and_blank_lines_change_nothing(file: Path, form: str, compressed: bool) -> None:
    plain = FORMS[form](file)
    expected = read(plain).entries
    content = plain.read_bytes().replace(b"\n", b"\r\n")
    file.write_bytes(b"\xef\xbb\xbf" + (b"" if form == "table" else b"\r\n \t\r\n") + content + b"\r\n\r\n")
    assert read(packed(file) if compressed else file).entries == expected


@pytest.mark.parametrize("form", FORMS)
def test_reading_stops_where_enough_is_found(file: Path, form: str) -> None:
    content = FORMS[form](file).read_text()
    file.write_text(content.rstrip().removesuffix("]") + "\nthis is neither JSON nor a table\0")
    assert len(read(file, wanted=3).entries) == 3
    if form != "table":
        assert "entry 4" in refusal(file) or "line 4" in refusal(file)


@pytest.mark.parametrize("form", FORMS)
def test_a_huge_file_takes_no_memory(file: Path, form: str) -> None:
    """128 MiB of which the first three requests are wanted; the rest only goes through the checksum."""
    FORMS[form](file)
    with file.open("r+b") as sparse:
        sparse.truncate(128 << 20)
    tracemalloc.start()
    try:
        began = time.perf_counter()
        assert len(read(file, wanted=3).entries) == 3
        assert time.perf_counter() - began < 5
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()


def test_a_list_is_read_in_pieces(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = [(f"{QUESTION} {place} {'ä' * place}", ANSWER) for place in range(50)]
    expected = read(sharegpt(file, pairs)).entries
    for piece in (1, 2, 7, 100):
        monkeypatch.setattr(workload_file, "_PIECE", piece)
        assert read(sharegpt(file, pairs, indent=2)).entries == expected


def test_one_enormous_entry_is_refused_without_reading_it_all(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workload_file, "LONGEST_ENTRY", 1_000)
    monkeypatch.setattr(workload_file, "_PIECE", 100)
    assert "line 1 has more than 1,000 characters" in refusal(json_lines(file, [{"prompt": "x" * 5_000}]))
    assert "entry 1 (line 1) is not complete JSON" in refusal(sharegpt(file, [("x" * 5_000, "y")]))


def test_looking_for_usable_requests_has_an_end(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workload_file, "MOST_ENTRIES", 5)
    trace(file, [(place, 50 if place in (1, 7) else 500, 5) for place in range(10)])
    found = read(file)
    assert (len(found.entries), found.left_out) == (1, {"longer than the context of 100 tokens": 4})


# --- what is wrong


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b"", "is empty"),
        (b"\xef\xbb\xbf \r\n\n\t ", "is empty"),
        (b"[]", "is empty"),
        (b" [\n] ", "is empty"),
        (b"timestamp,input_length,output_length\n", "is empty"),
        (b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR", "is not UTF-8 text"),
        (bytes(range(128)), "is not text"),
        ('{"prompt": "x"}\n'.encode("utf-16"), "is not UTF-8 text"),
        ('{"prompt": "naïve"}\n'.encode("latin-1"), "is not UTF-8 text"),
        (b"Call me Ishmael.\nSome years ago\n", "line 1 is neither JSON nor the header of a trace"),
        (b"time;in;out\n1;2;3\n", "line 1 is neither"),
        (b"0,40,5\n10,40,5\n", "line 1 is neither"),
        (b'"just text"', "line 1 is neither"),
        (b'{"messages": []}\n', "line 1 is of no known form"),
        (b'[{"a": 1}]', "entry 1 (line 1) is of no known form"),
        (b"[1, 2]", "entry 1 (line 1) is not a JSON object"),
        (b"[[]]", "entry 1 (line 1) is not a JSON object"),
        (b'{"prompt": "a b"}\n[1]\n', "line 2 is not a JSON object"),
        (b'{"prompt": "a b"}\n{"prompt": "c', "it is the last and seems cut short: copy the file again, or"),
        (b'{"prompt": "a b"}\n{"prompt": "c\n{"prompt": "d"}\n', "correct that line, or take it out"),
        (b"timestamp,input_length,output_length\n1,2,3\n2,4", "2 columns, the header 3; it is the last and seems cut"),
        (b"timestamp,input_length,output_length\n2,4\n1,2,3\n", "2 columns, the header 3; correct that line"),
        (b'[{"prompt": "a b"}, {"prompt": "c", "max_tokens": NaN}]', "entry 2 (line 1) holds NaN, which is no number"),
        (b'{"prompt": "a b"} {"prompt": "c d"}\n', "line 1 is not a JSON object of its own: Extra data"),
        (b'{\n "prompt": "a b"\n}\n', "line 1 is not a JSON object of its own"),
        (b'[\n{"prompt": "a b"},\n{"prompt": "c', "entry 2 (line 3) is not complete JSON"),
        (b'[{"prompt": "a b"}', "entry 2 (line 1) is not complete JSON"),
        (b'[{"prompt": "a b"}, {"prompt" "c"}]', "entry 2 (line 1) is not complete JSON"),
        (b"[" * 200_000, "nested too deep"),
        (b'{"prompt": ' + b"[" * 200_000, "nested too deep"),
        (b'{"prompt": "a b", "max_tokens": ' + b"9" * 5_000 + b"}", "line 1 holds a number of thousands of digits"),
        (b'[{"prompt": "a b", "max_tokens": ' + b"9" * 5_000 + b"}]", "entry 1 (line 1) holds a number of thousands"),
        (b'{"prompt": "\\ud800 lone half"}', "half of a surrogate pair"),
        (b"\x1f\x8bnot really gzip", "is a damaged gzip file"),
        (b"\x1f\x8b", "is a damaged gzip file"),
    ],
)  # fmt: skip
def test_what_is_no_workload_is_one_line(file: Path, content: bytes, named: str) -> None:
    file.write_bytes(content)
    message = refusal(file)
    assert named in message
    assert len(message) < 500 + len(str(file))


@pytest.mark.parametrize(
    ("second", "named"),
    [
        ({"prompt": 7}, "neither text nor a list of token ids"),
        ({"prompt": {"text": "x"}}, "neither text nor a list of token ids"),
        ({"prompt": [1, "2"]}, "neither text nor a list of token ids"),
        ({"prompt": [1, True]}, "neither text nor a list of token ids"),
        ({"prompt": [1, 10_240]}, "the token id 10240, outside the model's vocabulary of 10240"),
        ({"prompt": [-1]}, "the token id -1"),
        ({"prompt": "a", "max_tokens": -1}, "'-1' as 'max_tokens'"),
        ({"prompt": "a", "output_tokens": 1.5}, "'1.5' as 'output_tokens'"),
        ({"prompt": "a", "output_len": "many"}, "'many' as 'output_len'"),
        ({"prompt": "a", "output_len": True}, "'True' as 'output_len'"),
        ({"prompt": "a", "output_len": float("nan")}, "holds NaN, which is no number"),
        ({"prompt": "a", "output_len": float("inf")}, "holds Infinity, which is no number"),
        ({"prompt": None}, "has no 'prompt'"),
        ({"timestamp": 1, "input_length": 2, "output_length": 3}, "has no 'prompt'"),
        (conversation(QUESTION, ANSWER), "has no 'prompt'"),
    ],
)
def test_a_wrong_prompt_is_named_by_its_line(file: Path, second: object, named: str) -> None:
    message = refusal(json_lines(file, [{"prompt": "fine"}, second]))
    assert "line 2 " in message
    assert named in message


@pytest.mark.parametrize(
    ("second", "named"),
    [
        ({"timestamp": 1, "input_length": -5, "output_length": 3}, "'-5' as 'input_length'"),
        ({"timestamp": 1, "input_length": 5, "output_length": -3}, "'-3' as 'output_length'"),
        ({"timestamp": 1, "input_length": 5.5, "output_length": 3}, "'5.5' as 'input_length'"),
        ({"timestamp": 1, "input_length": [5], "output_length": 3}, "as 'input_length'"),
        ({"timestamp": 1, "input_length": 5}, "has no 'output_length'"),
        ({"input_length": 5, "output_length": 3}, "has no 'timestamp'"),
        ({"timestamp": None, "input_length": 5, "output_length": 3}, "has no 'timestamp'"),
        ({"timestamp": "noon", "input_length": 5, "output_length": 3}, "neither a number below 1e18 nor a date"),
        ({"timestamp": True, "input_length": 5, "output_length": 3}, "neither a number below 1e18 nor a date"),
        ({"timestamp": [1], "input_length": 5, "output_length": 3}, "neither a number below 1e18 nor a date"),
        ({"timestamp": 1e30, "input_length": 5, "output_length": 3}, "neither a number below 1e18 nor a date"),
        ({"timestamp": 1, "input_length": 5, "output_length": 3, "hash_ids": [1, 2]}, "2 hash_ids for 5 tokens"),
        ({"timestamp": 1, "input_length": 5, "output_length": 3, "hash_ids": "1"}, "'hash_ids' that are not a list"),
        ({"timestamp": 1, "input_length": 5, "output_length": 3, "hash_ids": [1.5]}, "'hash_ids' that are not a list"),
        ({"prompt": "x"}, "has no 'timestamp'"),
    ],
)
def test_a_wrong_line_of_a_trace_is_named(file: Path, second: object, named: str) -> None:
    message = refusal(json_lines(file, [{"timestamp": 0, "input_length": 5, "output_length": 3}, second]))
    assert "line 2 " in message
    assert named in message


@pytest.mark.parametrize(
    ("row", "named"),
    [
        ("nan,40,5", "neither a number below 1e18 nor a date"),
        ("inf,40,5", "neither a number below 1e18 nor a date"),
        (",40,5", "neither a number below 1e18 nor a date"),
        ("1,nan,5", "'nan' as 'input_length'"),
        ("1,inf,5", "'inf' as 'input_length'"),
        ("1,-4,5", "'-4' as 'input_length'"),
        ("1,,5", "'' as 'input_length'"),
        ("1,40", "has 2 columns, the header 3"),
        ("1,40,5,6", "has 4 columns, the header 3"),
        ('"1,40,5', "has 1 column, the header 3"),
        ("1," + "4" * 200_000 + ",5", "is no CSV"),
    ],
)
def test_a_wrong_row_of_a_table_is_named(file: Path, row: str, named: str) -> None:
    file.write_text(f"timestamp,input_length,output_length\n0,40,5\n{row}\n")
    message = refusal(file)
    assert "line 3 " in message
    assert named in message


@pytest.mark.parametrize(
    ("turns", "named"),
    [
        ("hello", "no list of turns"),
        ([{"from": "human"}], "a turn without text"),
        ([{"from": "human", "value": 3}], "a turn without text"),
        ([{"value": "x"}], "a turn without 'from'"),
        (["x"], "a turn without 'from'"),
    ],
)
def test_a_wrong_conversation_is_named_by_its_place(file: Path, turns: object, named: str) -> None:
    file.write_text(json.dumps([conversation(QUESTION, ANSWER), {"conversations": turns}], indent=1))
    message = refusal(file)
    assert "entry 2 (line " in message
    assert named in message


def test_no_file_is_one_line(file: Path, tmp_path: Path) -> None:
    assert "No such file" in refusal(file)
    assert "is not a file" in refusal(tmp_path)
    if hasattr(os, "mkfifo"):  # not on Windows
        os.mkfifo(file)
        assert "is not a file" in refusal(file), "and nobody waits for it"


def test_a_packed_file_that_was_cut_short_says_so_where_the_cut_is_reached(file: Path) -> None:
    plain = json_lines(file, [{"prompt": f"{QUESTION} {place}"} for place in range(5_000)])
    whole = gzip.compress(plain.read_bytes())
    file.write_bytes(whole[: len(whole) // 2])
    assert "damaged gzip file" in refusal(file, wanted=10**9)
    assert len(read(file, wanted=3).entries) == 3


@pytest.mark.slow
def test_a_file_that_unpacks_without_end_is_not_unpacked(file: Path) -> None:
    file.write_bytes(gzip.compress(b'{"prompt": "a b c"}\n' + b" " * (200 << 20), compresslevel=1))
    tracemalloc.start()
    try:
        assert "has more than" in refusal(file)
        assert tracemalloc.get_traced_memory()[1] < 128 << 20
    finally:
        tracemalloc.stop()


PIECES = st.sampled_from(
    [
        *(
            b"[",
            b"]",
            b"{",
            b"}",
            b",",
            b":",
            b"\n",
            b"\r\n",
            b'"',
            b"0",
            b"-1",
            b"1e999",
            b"null",
            b"NaN",
            b"2026-01-01",
        ),
        *(
            b'"prompt"',
            b'"timestamp"',
            b'"input_length"',
            b'"output_length"',
            b'"conversations"',
            b'"from"',
            b'"value"',
        ),
        *(b'"human"', b"\xff", b"\0", b"\xef\xbb\xbf", b"\x1f\x8b", b"\\ud800"),
        *(b"timestamp,input_length,output_length\n", b'{"prompt": "a b", "max_tokens": 3}'),
    ]
)


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(PIECES, max_size=30).map(b"".join) | st.binary(max_size=200))
def test_any_bytes_are_a_recording_or_one_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "any"
    path.write_bytes(content)
    try:
        found = read(path)
    except WorkloadError as problem:
        assert "\n" not in str(problem)
    else:
        assert found.entries
        assert all(entry.input_tokens + entry.output_tokens <= 100 for entry in found.entries)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])).filter(str.strip), min_size=1, max_size=8))
def test_any_text_comes_back_as_it_was(tmp_path: Path, prompts: list[str]) -> None:
    path = tmp_path / "any"
    for entries in (
        [{"prompt": prompt} for prompt in prompts],
        [conversation(prompt, ANSWER) for prompt in prompts],
    ):
        path.write_text(
            "".join(json.dumps(entry, ensure_ascii=False) + "\n" for entry in entries), encoding="utf-8", newline=""
        )
        by_line = [entry.prompt for entry in read(path, count=lambda text: 5).entries]
        path.write_text(json.dumps(entries, ensure_ascii=False, indent=1), encoding="utf-8", newline="")
        assert by_line == prompts == [entry.prompt for entry in read(path, count=lambda text: 5).entries]
