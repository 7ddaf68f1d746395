"""Files that a killed process cannot spoil."""

import os

from longva.files.writing import append_line, read_lines, write_whole


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


def test_a_folder_that_cannot_be_synced_is_written_all_the_same(tmp_path, monkeypatch):
    opened = os.open

    def without_folders(path, *args, **kwargs):
        if path == tmp_path:
            raise PermissionError(13, "Permission denied")
        return opened(path, *args, **kwargs)

    monkeypatch.setattr(os, "open", without_folders)
    write_whole(tmp_path / "state.json", "{}")
    assert (tmp_path / "state.json").read_text() == "{}"
