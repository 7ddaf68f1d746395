import json
import math

import pytest

from longva.errors import LongVAError
from longva.evaluate.judge import Judge
from longva.evaluate.judged_samples import judge_results
from longva.evaluate.local_judge import LocalJudge
from longva.evaluate.results import Score, interval, read_runs
from longva.evaluate.tables import build_tables, markdown, paper_tables
from longva.reporting.intervals import wilson_interval
from tests.evaluate.lmms_results import graded, video_mme, write_results


def table_of(runs, name):
    return next(table for table in build_tables(runs) if table.id == name)


def texts(line):
    return [cell.text for cell in line.cells]


def ours(table):
    return [line for line in table.lines if line.kind == "ours" and line.model]


def paper(name):
    return next(table for table in paper_tables() if table.id == name)


def test_published_scores_agree_with_themselves():
    for row in paper("video-mme").rows:  # as many questions in each third
        *thirds, overall = row.scores
        assert sum(thirds) / 3 == pytest.approx(overall, abs=0.08), row.model
    mlvu = paper("mlvu")
    row = dict(zip([c.name for c in mlvu.columns], mlvu.rows[-1].scores, strict=True))
    for column in mlvu.columns:
        if column.mean_of:
            parts = [row[name] for name in column.mean_of]
            assert sum(parts) / len(parts) == pytest.approx(row[column.name], abs=0.06)
    for table in paper_tables():
        assert {len(row.scores) for row in table.rows} == {len(table.columns)}


def test_the_papers_best_row():
    row = next(
        row for row in paper("video-mme").rows if (row.series, row.frames) == ("longva", 128)
    )
    assert row.scores == [61.6, 50.6, 47.1, 53.1]


def test_our_run_stands_below_the_papers_row_of_as_many_frames(tmp_path):
    tasks = {"videomme": video_mme(short=[2], medium=[0], long=[3])}
    write_results(tmp_path, "model=lmms-lab/LongVA-7B,frames=8", tasks)
    lines = table_of(read_runs(tmp_path), "video-mme").lines
    start = next(i for i, line in enumerate(lines) if line.kind == "paper")
    published, measured, difference, following = lines[start : start + 4]
    assert (published.frames, texts(published)) == (8, ["55.6", "46.0", "41.7", "47.7"])
    assert (measured.model, texts(measured)) == ("LongVA-7B", ["66.7", "0.0", "100.0", "55.6"])
    assert texts(difference) == ["+11.1", "-46.0", "+58.3", "+7.9"]
    assert following.kind == "paper" and following.frames == 16
    assert texts(lines[start + 4]) == ["not run"] * 4
    assert measured.cells[0].details[-1] == "n = 3 of 900"


def test_intervals_are_wilsons_and_wider_where_answers_hang_together(tmp_path):
    write_results(tmp_path, "frames=8", {"videomme": video_mme(short=[3, 3, 0, 0])})
    (run,) = read_runs(tmp_path)
    short = run.scores(paper("video-mme").columns)[0]
    assert isinstance(short, Score) and (short.value, short.n) == (50.0, 12)
    exact = (6.76, 93.24)  # Clopper and Pearson's of 2 in 4: four videos, not twelve answers
    assert (short.low, short.high) == pytest.approx(exact, abs=0.1)
    assert interval([1, 0, 1, 0]) == wilson_interval(2, 4)


def test_grades_of_one_video_count_as_a_cluster(tmp_path):
    assert interval([3, 5], graded=True) == pytest.approx((4 - 1.96, 4 + 1.96), abs=1e-3)
    # Two videos with two equal grades each say as much as two grades.
    assert interval([3, 3, 5, 5], "aabb", graded=True) == pytest.approx(
        interval([3, 5], graded=True)
    )
    assert interval([3, 4, 5], "aaa", graded=True) == (-math.inf, math.inf)  # one video
    assert interval([4, 4], "ab", graded=True) == (-math.inf, math.inf)  # equal grades

    rows, totals = graded("gpt_eval_score", *["a red car", "boats"] * 3)
    for number, row in enumerate(rows):
        row["gpt_eval_score"]["video_name"] = f"v{number // 2}"
    write_results(tmp_path, "model=nano,frames=32", {"activitynetqa": (rows, totals)})
    (path,) = judge_results(tmp_path, Judge(endpoint=LocalJudge()))
    lines = [json.loads(text) for text in path.read_text().splitlines()]
    grades = [4, 4, 2, 2, 3, 3]
    judged = [line | {"score": grade} for line, grade in zip(lines, grades, strict=True)]
    path.write_text("".join(json.dumps(line) + "\n" for line in judged))
    (run,) = read_runs(tmp_path)
    score = run.scores(paper("short-video").columns)[2]
    assert isinstance(score, Score) and score.value == 3.0
    half = 1.959964 / math.sqrt(3)  # three videos with a standard deviation of 1
    assert (score.low, score.high) == pytest.approx((3 - half, 3 + half))


def test_a_difference_is_marked_when_the_paper_lies_outside_the_interval(tmp_path):
    tasks = {"videomme": video_mme(short=[2] * 5, medium=[0] * 50, long=[3] * 50)}
    write_results(tmp_path, "frames=8", tasks)
    line = next(
        x for x in table_of(read_runs(tmp_path), "video-mme").lines if x.kind == "difference"
    )
    assert [cell.mark for cell in line.cells[:3]] == ["", "below", "above"]


def test_means_of_tasks_need_all_of_them(tmp_path):
    kinds = ("anomaly_reco", "count", "ego", "needle", "order", "plotQA", "topic_reasoning")
    rows = [
        {"mlvu_percetion_score": {"task_type": kind, "pred_answer": said, "answer": "A"}}
        for kind in kinds
        for said in ("A", "A" if kind == "count" else "B")
    ]
    totals = {"mlvu_percetion_score,none": 0.0}
    write_results(tmp_path / "all", "frames=256", {"mlvu_dev": (rows, totals)})
    (line,) = ours(table_of(read_runs(tmp_path / "all"), "mlvu"))
    row = dict(zip([c.name for c in paper("mlvu").columns], texts(line), strict=True))
    assert (row["AC"], row["TR"], row["M-Avg"]) == ("100.0", "50.0", "57.1")  # 400 / 7
    assert (row["VS"], row["G-Avg"]) == ("not run", "not run")
    write_results(tmp_path / "some", "frames=256", {"mlvu_dev": (rows[:4], totals)})
    (line,) = ours(table_of(read_runs(tmp_path / "some"), "mlvu"))
    assert texts(line)[-2] == "not run"


def test_totals_stand_in_where_no_answers_were_kept(tmp_path):
    tasks = {
        "videomme": video_mme(short=[3], long=[0]),
        "ai2d": ([{}] * 4, {"exact_match,none": 0.75}),
        "mmmu_val": ([{"mmmu_acc": {"id": "x"}}] * 8, {"mmmu_acc,none": 0.25}),
    }
    write_results(tmp_path, {"pretrained": "x/y", "max_frames_num": 8}, tasks, logs=False)
    runs = read_runs(tmp_path)
    (line,) = ours(table_of(runs, "video-mme"))
    assert (line.model, line.frames) == ("y", 8)
    assert texts(line) == ["not run", "not run", "not run", "50.0"]
    assert line.cells[-1].details == ["n = 6 of 2,700"]  # no interval: videos are not told apart
    (line,) = ours(table_of(runs, "images"))
    assert (texts(line)[0], texts(line)[-1]) == ("75.0", "25.0")
    low, high = wilson_interval(2, 8)
    assert line.cells[-1].details == [f"{100 * low:.1f} to {100 * high:.1f}", "n = 8"]


def test_a_limited_run_says_so(tmp_path):
    tasks = {"ai2d": ([{"exact_match": 1.0}] * 4, {"exact_match,none": 1.0})}
    write_results(tmp_path, "model=nano", tasks, originals=1000)
    table = table_of(read_runs(tmp_path), "images")
    (line,) = ours(table)
    assert line.cells[0].details[-1] == "n = 4 of 1,000"
    assert "difference" not in {line.kind for line in table.lines}  # no sample of all questions
    path = next(tmp_path.glob("*_results.json"))
    sizes = {"ai2d": {"original": 1000, "effective": 0.1}}  # what --limit 0.1 leaves there
    path.write_text(json.dumps(json.loads(path.read_text()) | {"n-samples": sizes}))
    next(tmp_path.glob("*_samples_*")).unlink()
    (line,) = ours(table_of(read_runs(tmp_path), "images"))
    assert line.cells[0].details[-1] == "n = 100 of 1,000"


def test_images_are_one_row_a_model_whatever_frames_videos_had(tmp_path):
    for time, (frames, task) in enumerate([(8, "ai2d"), (32, "ai2d"), (64, "chartqa")]):
        metric = {"ai2d": "exact_match", "chartqa": "relaxed_overall"}[task]
        rows = [{metric: float(frames == 64)}]
        tasks = {task: (rows, {})}
        write_results(tmp_path, f"model=nano,frames={frames}", tasks, time=f"12000{time}")
    (line,) = ours(table_of(read_runs(tmp_path), "images"))
    assert (line.frames, texts(line)[:3]) == (None, ["0.0", "100.0", "not run"])


def test_grades_name_their_judge_and_the_local_judge_is_not_compared(tmp_path):
    answers = graded("gpt_eval_score", "a red car", "boats")
    write_results(tmp_path, "model=nano,frames=32", {"activitynetqa": answers})
    (line,) = ours(table_of(read_runs(tmp_path), "short-video"))
    assert texts(line)[2] == "not judged"  # lmms-eval's own 0.0 is not believed
    (path,) = judge_results(tmp_path, Judge(endpoint=LocalJudge()))
    table = table_of(read_runs(tmp_path), "short-video")
    (line,) = ours(table)
    assert (texts(line)[2], line.cells[2].mark) == ("2.50", "smoke")
    assert line.cells[2].details[-1] == "local judge"
    assert not [x for x in table.lines if x.kind == "difference"]
    assert any("longva-local-judge counts common words" in note for note in table.notes)
    rows = [json.loads(text) | {"judge": "gpt-x"} for text in path.read_text().splitlines()]
    rows[1] |= {"score": None, "reason": "429"}
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    table = table_of(read_runs(tmp_path), "short-video")
    assert texts(ours(table)[0])[2] == "5.00" and ours(table)[0].cells[2].details == ["n = 1"]
    assert any(x.kind == "difference" and texts(x)[2] == "+2.20" for x in table.lines)
    assert "ActivityNet-QA of nano: graded by gpt-x." in table.notes
    assert any("1 of 2 answers could not be graded" in note for note in table.notes)
    path.write_text("".join(json.dumps(row | {"score": None}) + "\n" for row in rows))
    (line,) = ours(table_of(read_runs(tmp_path), "short-video"))
    assert texts(line)[2] == "2 unscored"


def test_a_dpo_model_is_compared_with_the_dpo_row_where_there_is_one(tmp_path):
    tasks = {
        "nextqa_mc_test": ([{"exact_match": True}, {"exact_match": False}], {}),
        "videomme": video_mme(short=[1]),
    }
    write_results(tmp_path, "model=lmms-lab/LongVA-7B-DPO,frames=32", tasks)
    runs = read_runs(tmp_path)
    lines = table_of(runs, "short-video").lines
    assert [line.model for line in lines[-3:-1]] == ["LongVA-DPO", "LongVA-7B-DPO"]
    assert texts(lines[-1])[0] == f"{50 - 69.26:+.2f}"
    lines = table_of(runs, "video-mme").lines
    above = lines[next(i for i, x in enumerate(lines) if x.model == "LongVA-7B-DPO") - 1]
    assert (above.kind, above.frames) == ("paper", 32)


def test_runs_are_told_apart_by_what_changes_answers(tmp_path):
    mc = {"nextqa_mc_test": ([{"exact_match": 1.0}], {})}
    image = {"ai2d": ([{"exact_match": 0.0}], {"exact_match,none": 0.0})}
    write_results(tmp_path / "a", "model=nano,frames=8,device=cuda:0", mc)
    write_results(tmp_path / "b", "model=nano,frames=8,device=cuda:1,answers=x", image)
    write_results(tmp_path / "c", "model=nano,frames=8,frame_fit=pad", mc)
    write_results(tmp_path / "d", "model=nano,fps=1,max_frames=64", mc)
    again = {"nextqa_mc_test": ([{"exact_match": 0.0}], {})}
    write_results(tmp_path / "a", "model=nano,frames=8", again, time="130000")
    runs = read_runs(tmp_path)
    assert [(run.label, run.frames, sorted(run.tasks)) for run in runs] == [
        ("nano", 8, ["ai2d", "nextqa_mc_test"]),
        ("nano", "1 fps, at most 64", ["nextqa_mc_test"]),
        ("nano (frame_fit=pad)", 8, ["nextqa_mc_test"]),
    ]
    table = table_of(runs, "short-video")
    assert [texts(line)[0] for line in ours(table)] == ["0.00", "100.00", "100.00"]
    assert table.lines[-1].frames == "1 fps, at most 64"  # in no row of the paper


def test_markdown_has_a_cell_for_every_column(tmp_path):
    write_results(tmp_path, "model=a|b,frames=8", {"videomme": video_mme(short=[0] * 9)})
    text = markdown(table_of(read_runs(tmp_path), "video-mme"))
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert {row.replace("\\|", "").count("|") for row in rows} == {8}
    assert "| ours | a\\|b | 8 | 0.0 | not run | not run | 0.0 |" in rows
    assert "| difference |  |  | **-55.6** | - | - | **-47.7** |" in rows


def test_a_folder_without_results_is_named(tmp_path):
    with pytest.raises(LongVAError, match="holds no results of lmms-eval"):
        read_runs(tmp_path)
    (tmp_path / "x_results.json").write_text('{"results": {}}')
    with pytest.raises(LongVAError, match="x_results.json is no results file of lmms-eval"):
        read_runs(tmp_path)


def test_models_of_one_name_in_two_folders_are_two_models(tmp_path):
    for time, model, right in (("1", "runs/a/model", 3), ("2", "runs/b/model", 0)):
        tasks = {"videomme": video_mme(short=[right])}
        write_results(tmp_path, f"model={model},frames=8", tasks, time=time)
    write_results(tmp_path, "model=runs/c,frames=8", {"videomme": video_mme(short=[1])}, time="3")
    lines = ours(table_of(read_runs(tmp_path), "video-mme"))
    assert [(line.model, line.cells[0].text) for line in lines] == [
        ("runs/a/model", "100.0"),
        ("runs/b/model", "0.0"),
        ("c", "33.3"),
    ]
