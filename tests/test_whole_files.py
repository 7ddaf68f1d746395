"""Files that a killed process cannot spoil."""

from longva.whole_files import append_line, read_lines


def test_half_a_surrogate_pair_is_kept_and_read_again(tmp_path):
    log = tmp_path / "log.jsonl"
    append_line(log, {"reply": "so \ud83d"})  # as a server sends that cut within an emoji
    append_line(log, {"reply": "é"})
    assert [row["reply"] for row in read_lines(log)] == ["so \ud83d", "é"]


def test_a_line_that_a_kill_cut_short_is_skipped_and_the_next_one_stands_alone(tmp_path):
    log = tmp_path / "log.jsonl"
    append_line(log, {"cell": 1})
    with log.open("ab") as file:
        file.write(b'{"cell": 2, "ans')
    append_line(log, {"cell": 3})
    assert list(read_lines(log)) == [{"cell": 1}, {"cell": 3}]
