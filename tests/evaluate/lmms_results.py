"""Result folders as lmms-eval 0.7.3 writes them, made by hand."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path


def write_results(
    folder: Path,
    model_args: str | dict,
    tasks: Mapping[str, tuple[Sequence[dict], dict]],
    *,
    time: str = "120000",
    logs: bool = True,
    originals: int | None = None,
) -> Path:
    """Write one run: for each task the rows of its sample log, and its totals."""
    folder.mkdir(parents=True, exist_ok=True)
    results = {task: {"alias": task, **totals} for task, (_, totals) in tasks.items()}
    sizes = {
        task: {"original": originals or len(rows), "effective": len(rows)}
        for task, (rows, _) in tasks.items()
    }
    content = {
        "results": results,
        "configs": {},
        "n-samples": sizes,
        "config": {"model": "longva_hf", "model_args": model_args},
    }
    (folder / f"20261121_{time}_results.json").write_text(json.dumps(content))
    for task, (rows, _) in tasks.items():
        if logs:
            lines = (json.dumps({"doc_id": i, **row}) + "\n" for i, row in enumerate(rows))
            log = folder / f"20261121_{time}_samples_{task}.jsonl"
            log.write_text("".join(lines))
    return folder


def video_mme(**right: Sequence[int]) -> tuple[list[dict], dict]:
    """Three questions a video; by duration, how many of each video's are answered right."""
    rows = []
    for duration, videos in right.items():
        for video, count in enumerate(videos):
            for question in range(3):
                said = "A" if question < count else "B"
                about = {"duration": duration, "videoID": f"{duration}{video}"}
                value = about | {"pred_answer": said, "answer": "A", "score": float(said == "A")}
                rows.append({"videomme_perception_score": value})
    score = sum(row["videomme_perception_score"]["score"] for row in rows) / len(rows)
    return rows, {"videomme_perception_score,none": 100 * score}


def graded(metric: str, *said: str) -> tuple[list[dict], dict]:
    """Answers to one question, to be judged; lmms-eval's own grades are all 0."""
    about = {"question": "q", "answer": "a red car", "video_name": "v", "score": 0}
    return [{metric: about | {"pred": text}} for text in said], {f"{metric},none": 0.0}
