"""Manifests: what a row may say, and errors that name the row."""

import json
from dataclasses import replace
from pathlib import Path

import pyarrow
import pytest
from pyarrow import parquet

from data.manifest import ClipRecord, read_manifest

CLIPS = Path(__file__).parents[2] / "shared" / "clips"


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_csv(tmp_path: Path) -> None:
    path = write(
        tmp_path / "clips.csv",
        "\ufeffpath,text,width,height,fps,num_frames,start,end,licence\n"
        'a/b.mp4,"a cat, asleep\nin the sun",640,480,29.97,77,1.5,3,MIT\n'
        "/abs/c.webm,,0,0,0,1200+,,,\n",
    )
    cat, other = read_manifest(path)
    assert cat == ClipRecord(tmp_path / "a/b.mp4", "a cat, asleep\nin the sun", 2, 640, 480, 29.97, 77, 1.5, 3.0, None)
    assert other == ClipRecord(Path("/abs/c.webm"), "", 3, num_frames=1200)


def test_jsonl_says_the_same_as_csv(tmp_path: Path) -> None:
    rows = [
        {"path": "a.mp4", "text": "a café", "fps": 8, "start": 1},
        {"path": "b.mp4", "text": "b", "end": None},
    ]
    lines = write(tmp_path / "clips.jsonl", "\n\n".join(json.dumps(row) for row in rows) + "\n")
    table = write(tmp_path / "clips.csv", "path,text,fps,start\na.mp4,a café,8,1\nb.mp4,b,,\n")
    from_lines, from_table = read_manifest(lines), read_manifest(table)
    assert [r.row for r in from_lines] == [1, 3]
    assert [(r.path, r.text, r.fps, r.start, r.end) for r in from_lines] == [
        (r.path, r.text, r.fps, r.start, r.end) for r in from_table
    ]


def test_split_keeps_test_rows_out(tmp_path: Path) -> None:
    path = write(tmp_path / "clips.csv", "path,text,split\na,a,train\nb,b,test\nc,c,train\n")
    assert [r.text for r in read_manifest(path, split="train")] == ["a", "c"]
    assert [r.text for r in read_manifest(path)] == ["a", "b", "c"]
    with pytest.raises(ValueError, match="no row with split 'trian': it has test, train"):
        read_manifest(path, split="trian")
    undecided = write(tmp_path / "b.csv", "path,text,split\na,a,train\nb,b,\n")
    with pytest.raises(ValueError, match=r"b.csv row 3: split is empty"):
        read_manifest(undecided, split="train")
    without = write(tmp_path / "c.csv", "path,text\na,a\n")
    assert len(read_manifest(without, split="train")) == 1


HEADER = "path,text,width,fps,start,end\na.mp4,a,1,1,0,1\n"
WRONG_CSV = [
    ("text\na\n", r"clips.csv row 1: column 'path' is missing"),
    ("path,text\n", r"has no rows"),
    ("", r"row 1: column 'path' is missing"),
    (HEADER + ",b,,,,\n", r"clips.csv row 3: path is empty"),
    (HEADER + "b,b,wide,,,\n", r"clips.csv row 3: width='wide' must be a number"),
    (HEADER + "b,b,1.5,,,\n", r"clips.csv row 3: width='1.5' must be a whole number"),
    (HEADER + "b,b,,-1,,\n", r"clips.csv row 3: fps='-1' must be a number of at least 0"),
    (HEADER + "b,b,,,-1,\n", r"clips.csv row 3: start='-1'"),
    (HEADER + "b,b,,,2,1\n", r"clips.csv row 3: end=1 must come after start=2"),
    (HEADER + "b,b,,nan,,\n", r"clips.csv row 3: fps='nan'"),
    (HEADER + "b,b, c,,,,\n", r"clips.csv row 3: more fields than the header's 6"),
    (HEADER + "b,b\n", r"clips.csv row 3: fewer fields than the header's 6"),
    (HEADER + 'b,"b\n', r"clips.csv row 3: .*quotes"),
]


@pytest.mark.parametrize(("text", "error"), WRONG_CSV)
def test_wrong_csv_rows_are_named(tmp_path: Path, text: str, error: str) -> None:
    with pytest.raises(ValueError, match=error) as caught:
        read_manifest(write(tmp_path / "clips.csv", text))
    assert "\n" not in str(caught.value)


WRONG_JSONL = [
    ("{\n", r"clips.jsonl row 1: not JSON"),
    ("[1]\n", r"clips.jsonl row 1: must be one JSON object"),
    ('{"path": "a"}\n', r"clips.jsonl row 1: text is missing"),
    ('{"path": "a", "text": 3}\n', r"clips.jsonl row 1: text is missing or not text"),
    (
        '{"path": "a", "text": "a cat \\ud83d"}\n',
        r"clips.jsonl row 1: text='a cat .ud83d' has half a character.*: mend it",
    ),
    ('{"path": "caf\\udce9.mp4", "text": "a"}\n', r"clips.jsonl row 1: path='caf.udce9.mp4' has half a character"),
    ('{"path": "a", "text": "", "width": true}\n', r"clips.jsonl row 1: width=True must be a number"),
]


@pytest.mark.parametrize(("text", "error"), WRONG_JSONL)
def test_wrong_jsonl_rows_are_named(tmp_path: Path, text: str, error: str) -> None:
    with pytest.raises(ValueError, match=error):
        read_manifest(write(tmp_path / "clips.jsonl", text))


def test_wrong_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="does not exist"):
        read_manifest(tmp_path / "no.csv")
    with pytest.raises(ValueError, match=r"use a \.csv, \.jsonl or \.parquet"):
        read_manifest(tmp_path / "clips.arrow")
    (tmp_path / "latin.csv").write_bytes("path,text\na,caf\u00e9\n".encode("latin-1"))
    with pytest.raises(ValueError, match="UTF-8"):
        read_manifest(tmp_path / "latin.csv")


@pytest.mark.skipif(not CLIPS.is_dir(), reason=f"real clips are not at {CLIPS}")
def test_index_of_the_real_clips() -> None:
    splits = {split: read_manifest(CLIPS / "index.csv", split) for split in ("train", "test", "odd")}
    assert {split: len(rows) for split, rows in splits.items()} == {"train": 46, "test": 23, "odd": 67}
    assert all(record.path.is_file() for records in splits.values() for record in records)
    assert not {r.path for r in splits["train"]} & {r.path for r in splits["test"]}
    assert len(read_manifest(CLIPS / "index.csv")) == 136


def test_parquet_says_the_same_as_csv(tmp_path: Path) -> None:
    table = write(tmp_path / "clips.csv", "path,text,fps,start,split\na.mp4,a café,8,1,train\nb.mp4,b,,,test\n")
    columns = {"path": ["a.mp4", "b.mp4"], "text": ["a café", "b"], "fps": [8.0, None], "start": [1, None]}
    parquet.write_table(pyarrow.table({**columns, "split": ["train", "test"]}), tmp_path / "clips.parquet")
    from_table, from_parquet = read_manifest(table), read_manifest(tmp_path / "clips.parquet")
    assert [replace(record, row=record.row - 1) for record in from_table] == from_parquet
    (tmp_path / "bad.parquet").write_bytes(b"no parquet at all")
    with pytest.raises(ValueError, match=r"bad.parquet is no parquet file .*: write it anew"):
        read_manifest(tmp_path / "bad.parquet")
    parquet.write_table(pyarrow.table({"text": ["a"]}), tmp_path / "lacks.parquet")
    with pytest.raises(ValueError, match=r"lacks.parquet row 1: column 'path' is missing"):
        read_manifest(tmp_path / "lacks.parquet")


@pytest.mark.parametrize(
    "header",
    [
        "video,caption,fps,frame",  # OpenVid
        "file_name,text,frame_rate,num_frames",  # Hugging Face's video folder
        "media_path,prompt,framerate,frames",
    ],
)
def test_columns_of_other_systems_are_taken_as_they_are(tmp_path: Path, header: str) -> None:
    (record,) = read_manifest(write(tmp_path / "clips.csv", f"{header}\na.mp4,a cat,24,48\n"))
    assert record == ClipRecord(tmp_path / "a.mp4", "a cat", 2, fps=24, num_frames=48)


def test_a_length_in_seconds_gives_the_end(tmp_path: Path) -> None:
    rows = "path,text,fps,num_frames,start,seconds\na,a,,,2,3\nb,b,10,50,0,9\n"
    first, second = read_manifest(write(tmp_path / "clips.csv", rows))
    assert (first.start, first.end) == (2, 5)
    assert second.end is None  # its frames tell it more exactly


def test_what_pandas_has_for_nothing_is_nothing(tmp_path: Path) -> None:
    rows = [
        '{"path": "a.mp4", "text": "x", "start": 2, "seconds": 3, "fps": NaN, "num_frames": NaN, "split": "train"}',
        '{"path": "b.mp4", "text": "x", "split": "val"}',
    ]
    (tmp_path / "clips.jsonl").write_text("\n".join(rows))
    (record,) = read_manifest(tmp_path / "clips.jsonl", split="train")
    assert (record.start, record.end, record.fps, record.num_frames) == (2, 5, None, None)
    (tmp_path / "clips.jsonl").write_text("\n".join(rows).replace('"train"', "NaN"))
    with pytest.raises(ValueError, match="row 1: split is empty"):
        read_manifest(tmp_path / "clips.jsonl", split="val")


def test_where_a_row_stops_is_its_end_or_what_its_frames_tell() -> None:
    row = ClipRecord(Path("a.mp4"), "a", 2, start=4.0)
    assert row.stop is None and replace(row, end=5.0, fps=8.0, num_frames=16).stop == 5.0
    assert replace(row, fps=8.0, num_frames=16).stop == 6.0 and replace(row, num_frames=16).stop is None
