"""A data folder with a few real samples of every benchmark, in the schema of the hub, made by code.

    make_data(folder) -> folder      as `longva eval --data` takes it: parquet files, MP4s and PNGs
    make_words(folder) -> variables  the few words that NExT-QA's open-ended score looks up

Each benchmark has two to six samples. Videos are of the nano world, some seconds long. Text columns
hold what the hub's do, so that the released tasks of lmms-eval read them unchanged.
"""

import io
import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet as parquet

from longva.evaluate.benchmarks import BENCHMARKS
from longva.evaluate.vniah_export import export
from longva.media.write import write_video
from longva.nano.world import draw_scene, random_scene
from longva.niah.cells import Grid
from longva.niah.needles import NeedleRecipe
from longva.niah.visual import VisualRecipe
from tests.scenes import scene_frames

LETTERS = "ABCDE"


def make_data(folder: Path, tasks: Sequence[str] | None = None) -> Path:
    """Write the data of every benchmark (or of some groups of `WRITERS`) into a folder."""
    for name, write in WRITERS.items():
        if tasks is None or name in tasks:
            write(folder)
    return folder


def video(path: Path, seed: int, seconds: int = 3, fps: int = 4) -> Path:
    """Write a film of `seconds` scenes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = random.Random(seed)
    scenes = [random_scene(rng) for _ in range(seconds)]
    write_video(path, scene_frames(scenes, fps), Fraction(fps))
    return path


def picture(seed: int, width: int = 160, height: int = 120) -> dict[str, Any]:
    """Return a PNG as the hub's parquet files hold pictures."""
    content = io.BytesIO()
    draw_scene(random_scene(random.Random(seed)), width, height).save(content, "PNG")
    return {"bytes": content.getvalue(), "path": f"{seed}.png"}


def write_split(
    folder: Path, rows: list[dict[str, Any]], split: str = "test", config: str = "data"
) -> None:
    """Write one parquet file; pictures are marked as such, as `datasets` does."""
    table = pyarrow.Table.from_pylist(rows)
    pictures = {name: {"_type": "Image"} for name in table.column_names if name.startswith("image")}
    if pictures:
        kinds = {
            field.name: pictures.get(field.name) or _feature(field.type) for field in table.schema
        }
        features = json.dumps({"info": {"features": kinds}})
        table = table.replace_schema_metadata({"huggingface": features})
    path = folder / config / f"{split}-00000-of-00001.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(table, path)


def _feature(kind: pyarrow.DataType) -> dict[str, Any]:
    if pyarrow.types.is_list(kind):
        return {"_type": "List", "feature": _feature(kind.value_type)}
    return {"_type": "Value", "dtype": str(kind)}


def name_configs(folder: Path, splits: dict[str, Sequence[str]]) -> None:
    """Write the head of a dataset card that tells the hub's configs apart."""
    lines = ["---", "configs:"]
    for config, names in splits.items():
        lines += [f"- config_name: {config}", "  data_files:"]
        for split in names:
            lines += [f"  - split: {split}", f"    path: {config}/{split}-*"]
    (folder / "README.md").write_text("\n".join([*lines, "---", ""]))


def video_mme(data: Path, videos: int = 3, seconds: int = 3, fps: int = 4) -> None:
    """Video-MME: three questions a video; one video of each duration; the first has subtitles."""
    said = data / "videomme/subtitle/film0.srt"
    said.parent.mkdir(parents=True)
    font = '<font color="white" size=".72c">{}</font>'  # without it lmms-eval leaves a text out
    lines = ["1", "00:00:01,000 --> 00:00:02,000", font.format("An anchor, I think."), ""]
    said.write_text("\n".join(lines))
    rows = []
    for number in range(videos):
        name = f"film{number}"
        video(data / f"videomme/data/{name}.mp4", number, seconds, fps)
        for question in range(3):
            rows.append(
                {
                    "video_id": f"{number:03d}",
                    "duration": ("short", "medium", "long")[number % 3],
                    "domain": "Knowledge",
                    "sub_category": "Astronomy",
                    "url": f"https://example.org/{name}",
                    "videoID": name,
                    "question_id": f"{number:03d}-{question + 1}",
                    "task_type": "Object Recognition",
                    "question": f"What is shown at second {question}?",
                    "options": ["A. an anchor", "B. a cloud", "C. a key", "D. a horse"],
                    "answer": LETTERS[(number + question) % 4],
                }
            )
    write_split(data / "questions/lmms-eval/Video-MME", rows, config="videomme")


def mlvu(data: Path) -> None:
    """MLVU: seven tasks with options (dev), nine of the test split, and two in words."""
    dev = ("topic_reasoning", "anomaly_reco", "needle", "ego", "plotQA", "order", "count")
    test = (*dev[:2], "needleQA", *dev[3:], "sportsQA", "tutorialQA")
    for home, dataset, kinds in (("mlvu", "MLVU_dev", dev), ("mlvu_test", "MLVU_Test", test)):
        rows = []
        for number, kind in enumerate(kinds):
            name = f"{number + 1}_{kind}/{kind}_{number}.mp4"
            video(data / home / name, number, 2)
            options = "(A) a star\n(B) a moon\n(C) a cup\n(D) a gear"
            rows.append(
                {
                    "video_name": name,
                    "duration": 2.0,
                    "question": f"What is behind the number?\n{options}",
                    "answer": LETTERS[number % 4],
                    "task_type": kind,
                }
            )
        write_split(data / f"questions/sy1998/{dataset}", rows)
    scored = {"8_sub_scene": {"scoring_points": "a red background; an anchor"}, "9_summary": {}}
    for kind, more in scored.items():
        rows = []
        for number in range(2):
            name = f"{kind[2:]}_{number}.mp4"
            video(data / f"mlvu_generation/MLVU/video/{kind}/{name}", number, 2)
            question = "Please describe what happens with the anchor in the video."
            rows.append(
                {
                    "video": name,
                    "duration": 2.0,
                    "question": question,
                    "answer": "An anchor is shown on red.",
                    "question_type": kind[2:],
                    **more,
                }
            )
        path = data / f"questions/MLVU/MVLU/MLVU/json/{kind}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(rows))


def next_qa(data: Path) -> None:
    """NExT-QA, multiple choice and open-ended."""
    folder = data / "questions/lmms-eval/NExTQA"
    for number in range(2):
        video(data / f"nextqa/NExTVideo/{1000 + number}.mp4", number, 2)
    choices = {f"a{i}": text for i, text in enumerate(["jump", "run", "sleep", "sing", "read"])}
    about = {"frame_count": 8, "width": 320, "height": 240}
    common = [
        {"video": 1000 + number % 2, **about, "question": "what is the boy doing", "qid": number}
        for number in range(4)
    ]
    multiple = [{**row, "answer": n, "type": "CW", **choices} for n, row in enumerate(common)]
    write_split(folder, multiple, config="MC")
    answers = [("dog", "DO", None), ("red", "TN", "blue"), ("yes", "DB", None), ("two", "DC", None)]
    words = [
        {**row, "answer": answer, "type": kind, "additional_ref_answer": more}
        for row, (answer, kind, more) in zip(common, answers, strict=True)
    ]
    write_split(folder, words, config="OE")
    write_split(folder, words, "validation", config="OE")
    name_configs(folder, {"MC": ["test"], "OE": ["test", "validation"]})


def activitynet_qa(data: Path) -> None:
    """ActivityNet-QA: short answers that a judge grades."""
    rows = []
    for number in range(3):
        video(data / f"activitynetqa/all_test/v_act{number}.mp4", number, 2)
        rows.append(
            {
                "video_name": f"act{number}",
                "question": "what is on the picture",
                "question_id": f"v_act{number}_1",
                "answer": ("anchor", "yes", "red")[number],
                "type": str(number),
            }
        )
    write_split(data / "questions/lmms-eval/ActivityNetQA", rows)


def video_chatgpt(data: Path) -> None:
    """VideoChatGPT with its three files (five aspects), and Video-DD on the same videos."""
    folder = data / "questions/lmms-eval/VideoChatGPT"
    for number in range(2):
        video(data / f"videochatgpt/Test_Videos/v_chat{number}.mp4", number, 2)
    names = [f"v_chat{number}" for number in range(2)]
    answer = "An anchor is shown on a red background."
    plain = [
        {"video_name": name, "question": "What is shown?", "answer": answer, "question_id": str(n)}
        for n, name in enumerate(names)
    ]
    pairs = []
    for name in names:
        first = {"question_1": "What is shown?", "question_2": "None"}
        second = {"question_1": "None", "question_2": "What can be seen?"}
        pairs += [{"video_name": name, **asked, "answer": answer} for asked in (first, second)]
    write_split(folder, plain, config="Generic")
    write_split(folder, plain, config="Temporal")
    write_split(folder, pairs, config="Consistency")
    name_configs(folder, {name: ["test"] for name in ("Generic", "Temporal", "Consistency")})
    question = "Please provide a detailed description of the video."
    described = [{**row, "question": question} for row in plain]
    write_split(data / "questions/lmms-lab/VideoDetailDescription", described)


def long_videos(data: Path) -> None:
    """LongVideoBench (validation) and LVBench."""
    rows, clues = [], []
    for number in range(2):
        video(data / f"datasets/longvideobench/videos/long{number}.mp4", number, 2)
        video(data / f"lvbench/all_videos/lv{number}.mp4", number, 2)
        options = ["an anchor", "a cloud", "a key", "a horse", "N/A"]
        rows.append(
            {
                "video_id": f"long{number}",
                "question": "What appears first?",
                "question_wo_referring_query": "What appears first?",
                **{f"option{i}": option for i, option in enumerate(options)},
                "correct_choice": number,
                "position": [1],
                "topic_category": "NP-News-Programs",
                "question_category": "S2E",
                "level": "L1-Perception",
                "id": f"long{number}_0",
                "video_path": f"long{number}.mp4",
                "subtitle_path": f"long{number}_en.json",
                "duration_group": 15,
                "starting_timestamp_for_subtitles": 0.0,
                "duration": 2.0,
                "view_count": 1.0,
            }
        )
        clues.append(
            {
                "video_path": f"all_videos/lv{number}.mp4",
                "uid": str(number),
                "question": "What is shown?\n(A) a star\n(B) a moon\n(C) a cup\n(D) a gear",
                "answer": LETTERS[number],
                "question_type": ["entity recognition"],
                "time_reference": "00:00-00:02",
                "key": f"lv{number}",
                "type": "cartoon",
            }
        )
    write_split(data / "questions/longvideobench/LongVideoBench", rows, "validation", config=".")
    write_split(data / "questions/lmms-eval/LVBench", clues, "train")


def images(data: Path) -> None:
    """AI2D, ChartQA, DocVQA, InfoVQA and RealWorldQA."""
    home = data / "questions/lmms-lab-encoder"
    options = ["anchor", "cloud", "key", "horse"]
    write_split(
        home / "ai2d",
        [
            {"question": "What is it?", "options": options, "answer": str(n), "image": picture(n)}
            for n in range(2)
        ],
    )
    write_split(
        home / "ChartQA",
        [
            {"type": kind, "question": "How many?", "answer": answer, "image": picture(n)}
            for n, (kind, answer) in enumerate([("human_test", "14"), ("augmented_test", "Yes")])
        ],
    )
    for config, first in (("DocVQA", 10), ("InfographicVQA", 20)):
        rows = [
            {
                "questionId": str(first + n),
                "question": "What number is shown?",
                "image": picture(first + n, 200, 260),
                "answers": ["14", "fourteen"],
                "data_split": "val",
            }
            for n in range(2)
        ]
        write_split(home / "DocVQA", rows, "validation", config)
    name_configs(home / "DocVQA", {"DocVQA": ["validation"], "InfographicVQA": ["validation"]})
    only = "Please answer directly with only the letter of the correct option and nothing else."
    write_split(
        home / "RealWorldQA",
        [
            {"image": picture(31), "question": f"Which?\nA. one\nB. two\n{only}", "answer": "B"},
            {"image": picture(32), "question": "How many cars?", "answer": "2"},
        ],
    )


def mmmu(data: Path) -> None:
    """MMMU: one image, two images between the words, and an open question."""
    blank = {f"image_{i}": None for i in range(1, 8)}
    common = {"explanation": "", "topic_difficulty": "Easy", "img_type": "['Plots']"}
    rows = [
        {
            "id": "validation_Art_1",
            "question": "<image 1> Who painted it?",
            "options": "['Anna', 'Ben', 'Carla', 'David']",
            "answer": "B",
            "question_type": "multiple-choice",
            **common,
            **blank,
            "image_1": picture(41),
        },
        {
            "id": "validation_Math_2",
            "question": "Compare <image 1> with <image 2>. Which is larger?",
            "options": "['the first', 'the second']",
            "answer": "A",
            "question_type": "multiple-choice",
            **common,
            **blank,
            "image_1": picture(42),
            "image_2": picture(43),
        },
        {
            "id": "validation_Physics_3",
            "question": "<image 1> How many?",
            "options": "[]",
            "answer": "7",
            "question_type": "open",
            **common,
            **blank,
            "image_1": picture(44),
        },
    ]
    image = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    names = list(rows[0])
    kinds = [(n, image if n.startswith("image_") else pyarrow.string()) for n in names]
    table = pyarrow.Table.from_pylist(rows, pyarrow.schema(kinds))
    text, shown = {"_type": "Value", "dtype": "string"}, {"_type": "Image"}
    features = json.dumps({"info": {"features": {n: shown if n in blank else text for n in names}}})
    table = table.replace_schema_metadata({"huggingface": features})
    path = data / "questions/lmms-lab-encoder/MMMU/data/validation-00000-of-00001.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(table, path)


def v_niah(data: Path) -> None:
    """V-NIAH: two lengths, two depths, two drawn needles."""
    recipe = VisualRecipe(
        model="nano",
        output_dir=data,
        grid=Grid(lengths=(2, 4), depths=(0.0, 1.0)),
        needles=NeedleRecipe(count=1),
    )
    export(recipe, data)


def make_words(folder: Path) -> dict[str, str]:
    """Write the least that NLTK and `wn` take for their English data: one noun, no rules.

    Returns:
        The variables that lead to them.
    """
    folder.mkdir(parents=True, exist_ok=True)
    nltk, lexicon = folder / "nltk_data", folder / "oewn.xml"
    kinds = ("noun", "verb", "adj", "adv")
    wordnet = [f"{name}.{kind}" for name in ("index", "data") for kind in kinds]
    wordnet += [f"{kind}.exc" for kind in kinds] + ["lexnames", "cntlist.rev", "index.sense"]
    punkt = ("collocations.tab", "sent_starters.txt", "abbrev_types.txt", "ortho_context.tab")
    tagger = "averaged_perceptron_tagger_eng"
    texts = {f"corpora/wordnet/{name}": "" for name in wordnet}
    texts |= {f"tokenizers/punkt_tab/english/{name}": "" for name in punkt}
    for part, values in {"weights": "{}", "tagdict": "{}", "classes": '["NN"]'}.items():
        texts[f"taggers/{tagger}/{tagger}.{part}.json"] = values
    for name, text in texts.items():
        (nltk / name).parent.mkdir(parents=True, exist_ok=True)
        (nltk / name).write_text(text)
    lexicon.write_text(
        '<?xml version="1.0" encoding="UTF-8"?>\n<!DOCTYPE LexicalResource SYSTEM '
        '"http://globalwordnet.github.io/schemas/WN-LMF-1.0.dtd">\n<LexicalResource '
        'xmlns:dc="http://purl.org/dc/elements/1.1/"><Lexicon id="oewn" version="2024" '
        'label="words" language="en" email="x@example.org" license="x"><LexicalEntry '
        'id="oewn-dog-n"><Lemma writtenForm="dog" partOfSpeech="n"/><Sense id="oewn-dog-1" '
        'synset="oewn-1-n"/></LexicalEntry><Synset id="oewn-1-n" ili="" partOfSpeech="n">'
        "<Definition>barks</Definition></Synset></Lexicon></LexicalResource>"
    )
    variables = {"NLTK_DATA": str(nltk), "WN_DATA_DIR": str(folder / "wn")}
    code = f"import wn; wn.add({str(lexicon)!r}, progress_handler=None)"
    subprocess.run([sys.executable, "-c", code], env={**os.environ, **variables}, check=True)
    return variables


def newer_films(data: Path) -> None:
    """What came after the paper: two samples a task, more where a score needs more."""
    film = video(data / "film.mp4", 7, 2)

    def rows(videos: str, count: int = 2, **columns: Any) -> list[dict[str, Any]]:
        """Rows of a task; a function makes a column's values from the row's number."""
        for number in range(count):
            path = data / f"{videos.format(number)}.mp4"
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(film, path)
        made = {name: v if callable(v) else lambda n, v=v: v for name, v in columns.items()}
        return [{name: value(n) for name, value in made.items()} for n in range(count)]

    home = data / "questions"
    asked = {"question": "What is shown?", "input": "What is shown?\nA. a star\nB. a moon"}
    choices = ["a star", "a moon", "a cup", "a gear", "a key"]
    letters = {"options": "\n".join(f"{a}. {c}" for a, c in zip(LETTERS, choices, strict=True))}
    letter = LETTERS.__getitem__

    groups = rows(
        "videomme_v2/new{}",
        8,
        video_id=lambda n: f"new{n // 4}",
        question_id=lambda n: f"new{n // 4}-{n % 4 + 1}",
        question=asked["question"],
        **letters,
        answer=lambda n: letter(n % 4),
        group_type=lambda n: ("relevance", "logic")[n // 4],
        group_structure="[1, 2, 3, 4]",
        level=lambda n: str(n // 4 + 1),
        second_head="",
        third_head="",
    )
    write_split(home / "MME-Benchmarks/Video-MME-v2", groups)

    lessons = rows(
        "video_mmmu/Art/test_Music_{}",
        id="test_Music_{}".format,
        question=asked["question"],
        options=choices,
        answer=letter,
        question_type="multiple-choice",
    )
    parts = ("Perception", "Comprehension", "Adaptation")
    for config in parts:
        write_split(home / "lmms-eval/VideoMMMU", lessons, config=config)
    name_configs(home / "lmms-eval/VideoMMMU", {config: ["test"] for config in parts})

    clues = rows(
        "cg_videos_720p/clue{}",
        qid=str,
        video_uid="clue{}".format,
        question=asked["question"],
        choices=choices,
        right_answer=letter,
        duration=2.0,
        domain="Life",
        sub_category="Object",
    )
    write_split(home / "CG-Bench/CG-Bench", clues, "train", "cg-bench-mini")
    name_configs(home / "CG-Bench/CG-Bench", {"cg-bench-mini": ["train"]})

    seen = rows(
        "egoschema/videos/ego{}",
        question_idx=str,
        video_idx="ego{}".format,
        question=asked["question"],
        option=[f"{a}. {c}" for a, c in zip(LETTERS, choices, strict=True)],
        answer=str,
    )
    write_split(home / "lmms-eval/egoschema", seen, config="Subset")
    name_configs(home / "lmms-eval/egoschema", {"Subset": ["test"]})

    moves = [task for task in BENCHMARKS if task.startswith("mvbench_")]
    for task in moves:
        benchmark = BENCHMARKS[task]
        made = rows(
            (benchmark.videos or "").format(video="mv{}"),
            video="mv{}.mp4".format,
            question=asked["question"],
            candidates=choices,
            answer=choices.__getitem__,
        )
        write_split(home / benchmark.dataset, made, "train", benchmark.config or "")
    name_configs(home / "OpenGVLab/MVBench", {t.removeprefix("mvbench_"): ["train"] for t in moves})

    captions = "Which caption fits?\nCaption A: A star.\nCaption B: A moon."
    questions = {
        "multi-choice": ("Which?\nA. a star\nB. a moon", ["A. a star", "B. a moon"]),
        "yes_no": ("Is it a star?", ["yes", "no"]),
        "caption_matching": (captions, ["Caption A: A star.", "Caption B: A moon."]),
    }
    for config, (question, answers) in questions.items():
        made = rows(
            "tempcompass/videos/time{}",
            video_id="time{}".format,
            question=question,
            answer=answers.__getitem__,
            dim=lambda n: ("speed", "order")[n],
        )
        write_split(home / "lmms-eval/TempCompass", made, config=config)
    name_configs(home / "lmms-eval/TempCompass", {config: ["test"] for config in questions})

    kinds = [f"object_rel_direction_{how}" for how in ("easy", "medium", "hard")]
    kinds += ["object_rel_distance", "object_counting", "room_size_estimation"]
    rooms = rows(
        "vsibench/scannet/scene{}",
        6,
        id=int,
        dataset="scannet",
        scene_name="scene{}".format,
        question_type=kinds.__getitem__,
        question="Where is the star?",
        options=lambda n: ["A. left", "B. right"] if n < 4 else None,
        ground_truth=lambda n: "A" if n < 4 else "4",
    )
    write_split(home / "nyu-visionx/VSI-Bench", rooms, config="full")
    name_configs(home / "nyu-visionx/VSI-Bench", {"full": ["test"]})

    for task in ("timescope", "longtimescope"):
        made = rows(
            f"{task}/scope{{}}",
            id=int,
            video="scope{}.mp4".format,
            input=asked["input"],
            answer=letter,
            type="QA",
            length=60,
        )
        write_split(home / BENCHMARKS[task].dataset, made)

    perceived = rows(
        "perceptiontest_val/videos/seen{}",
        video_name="seen{}".format,
        question=asked["question"],
        question_id=str,
        options=choices[:3],
        answer_id=str,
        area="memory",
        reasoning="descriptive",
        tag="object",
    )
    folder = home / "lmms-eval/PerceptionTest_Val"
    write_split(folder, perceived, "validation", "mc_question_val")
    name_configs(folder, {"mc_question_val": ["validation"]})

    cached = data / "datasets--TencentARC--Video-Holmes"
    cases = rows(
        f"{cached.name}/snapshots/0123/videos_cropped/case{{}}",
        **{
            "video ID": "case{}".format,
            "Question ID": str,
            "Question Type": "SR",
            "Question": "Who was it?",
            "Options": dict(zip(LETTERS, choices, strict=True)),
            "Answer": letter,
            "Explanation": "",
        },
    )
    (data / "video_holmes").mkdir()
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text("0123")
    (home / "TencentARC/Video-Holmes").mkdir(parents=True)
    for split in ("test", "train"):
        path = home / f"TencentARC/Video-Holmes/{split}_Video-Holmes.json"
        path.write_text(json.dumps(cases))


WRITERS = {
    "videomme": video_mme,
    "mlvu": mlvu,
    "nextqa": next_qa,
    "activitynetqa": activitynet_qa,
    "videochatgpt": video_chatgpt,
    "long": long_videos,
    "images": images,
    "mmmu": mmmu,
    "vniah": v_niah,
    "newer": newer_films,
}
