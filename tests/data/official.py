"""Small datasets laid out as the official archives unpack: names, folders and JSON keys, a few pictures each."""

import base64
import csv
import io
import json
import tarfile
import zlib
from pathlib import Path

from PIL import Image

COLOURS = ("red", "blue", "green", "white")
THINGS = ("cat", "dog", "bird", "car")


def write(path: Path, content: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def picture(path: Path, number: int) -> Path:
    """A one-coloured picture whose size tells its number."""
    path.parent.mkdir(parents=True, exist_ok=True)
    kind = {".png": "PNG", "": "JPEG"}.get(path.suffix, "JPEG")
    Image.new("RGB", (24, 20 + number), COLOURS[number % 4]).save(path, kind)
    return path


def captions_of(number: int) -> list[str]:
    return [f"a {COLOURS[number % 4]} {THINGS[number % 4]}", f"the {THINGS[number % 4]}"]


def coco_name(split: str, number: int) -> str:
    """The name that COCO gives a picture in a split such as val2014."""
    return f"{number:012d}.jpg" if split.endswith("2017") else f"COCO_{split}_{number:012d}.jpg"


def coco(folder: Path, splits: dict[str, range], task: str = "captions") -> Path:
    """train2017.zip, val2017.zip, annotations_trainval2017.zip; likewise 2014."""
    for split, numbers in splits.items():
        for number in numbers:
            picture(folder / split / coco_name(split, number), number)
        write(
            folder / "annotations" / f"{task}_{split}.json",
            {
                "info": {"description": f"COCO {split[-4:]} Dataset", "year": int(split[-4:])},
                "licenses": [],
                "images": [
                    {
                        "license": 4,
                        "file_name": coco_name(split, number),
                        "coco_url": f"http://images.cocodataset.org/{split}/{coco_name(split, number)}",
                        "height": 20 + number,
                        "width": 24,
                        "id": number,
                    }
                    for number in numbers
                ],
                "annotations": [
                    {"image_id": number, "id": 10 * number + place, "caption": caption}
                    for number in numbers
                    for place, caption in enumerate(captions_of(number))
                ],
            },
        )
        for other in ("instances", "person_keypoints"):
            write(
                folder / "annotations" / f"{other}_{split}.json",
                {"images": [], "annotations": [], "categories": []},
            )
    return folder


def karpathy_coco(folder: Path, splits: dict[str, tuple[str, range]]) -> Path:
    """caption_datasets.zip: dataset_coco.json. splits: Karpathy's split → COCO's folder and the numbers."""
    images = []
    for split, (below, numbers) in splits.items():
        for number in numbers:
            picture(folder / below / coco_name(below, number), number)
            images.append(
                {
                    "filepath": below,
                    "sentids": [2 * number, 2 * number + 1],
                    "filename": coco_name(below, number),
                    "imgid": len(images),
                    "split": split,
                    "sentences": [
                        {
                            "tokens": text.split(),
                            "raw": text,
                            "imgid": len(images),
                            "sentid": 2 * number + place,
                        }
                        for place, text in enumerate(captions_of(number))
                    ],
                    "cocoid": number,
                }
            )
    write(folder / "dataset_coco.json", {"images": images, "dataset": "coco"})
    return folder


def flickr30k(folder: Path, karpathy: bool = True) -> Path:
    """flickr30k-images.tar.gz, and dataset_flickr30k.json or flickr30k.tar.gz's results_20130124.token."""
    names = [f"{1000092795 + 7 * number}.jpg" for number in range(6)]
    for number, name in enumerate(names):
        picture(folder / "flickr30k-images" / name, number)
    if not karpathy:
        lines = [
            f"{name}#{k}\t{text} .\n" for n, name in enumerate(names) for k, text in enumerate(captions_of(n))
        ]
        write(folder / "results_20130124.token", "".join(lines))
        return folder
    write(
        folder / "dataset_flickr30k.json",
        {
            "images": [
                {
                    "sentids": [2 * n, 2 * n + 1],
                    "imgid": n,
                    "sentences": [
                        {"tokens": t.split(), "raw": t, "imgid": n, "sentid": k}
                        for k, t in enumerate(captions_of(n))
                    ],
                    "split": ("train", "train", "val", "test", "test", "test")[n],
                    "filename": name,
                }
                for n, name in enumerate(names)
            ],
            "dataset": "flickr30k",
        },
    )
    return folder


def kaggle_flickr30k(folder: Path) -> Path:
    """Kaggle's archive: flickr30k_images/results.csv beside a folder flickr30k_images/flickr30k_images."""
    lines = ["image_name| comment_number| comment\n"]
    for number in range(3):
        name = f"{1000092795 + number}.jpg"
        picture(folder / "flickr30k_images" / "flickr30k_images" / name, number)
        lines += [f"{name}| {k}| {text} .\n" for k, text in enumerate(captions_of(number))]
    lines[-1] = (
        lines[-1].replace("| ", "   ").replace("   ", "| ", 1)
    )  # as 2199200615.jpg's fifth: no second bar
    write(folder / "flickr30k_images" / "results.csv", "".join(lines))
    return folder


def nocaps(folder: Path) -> Path:
    """nocaps_val_4500_captions.json and a folder of Open Images pictures."""
    domains = ("in-domain", "near-domain", "out-domain", "near-domain")
    names = [f"0013ea208702090{n}.jpg" for n in range(4)]
    for number, name in enumerate(names):
        picture(folder / "nocaps_images" / name, number)
    write(
        folder / "nocaps_val_4500_captions.json",
        {
            "licenses": [],
            "info": {"url": "http://nocaps.org", "version": "0.1"},
            "images": [
                {
                    "license": 0,
                    "open_images_id": name[:-4],
                    "coco_url": f"https://s3.amazonaws.com/nocaps/val/{name}",
                    "width": 24,
                    "date_captured": "2018-11-06 11:04:33",
                    "file_name": name,
                    "height": 20 + n,
                    "id": n,
                    "domain": domains[n],
                }
                for n, name in enumerate(names)
            ],
            "annotations": [
                {"image_id": n, "id": 10 * n + k, "caption": text}
                for n in range(4)
                for k, text in enumerate(captions_of(n))
            ],
        },
    )
    return folder


def vqa(folder: Path, splits: dict[str, range], prefix: str = "v2_") -> Path:
    """v2_Questions_Val_mscoco.zip and v2_Annotations_Val_mscoco.zip; with an empty prefix OK-VQA's. No pictures."""
    for split, numbers in splits.items():
        write(
            folder / f"{prefix}OpenEnded_mscoco_{split}_questions.json",
            {
                "info": {"description": "This is v2.0 of the VQA dataset."},
                "task_type": "Open-Ended",
                "data_type": "mscoco",
                "license": {},
                "data_subtype": split,
                "questions": [
                    {"image_id": n, "question": "What is in the picture?", "question_id": 1000 * n}
                    for n in numbers
                ],
            },
        )
        if split.startswith("test"):
            continue
        write(
            folder / f"{prefix}mscoco_{split}_annotations.json",
            {
                "info": {},
                "license": {},
                "data_subtype": split,
                "annotations": [
                    {
                        "question_type": "what is in the" if prefix else "ten",
                        "multiple_choice_answer": THINGS[n % 4],
                        "answers": [
                            {
                                "answer": THINGS[n % 4] if k < 8 else "thing",
                                "answer_confidence": "yes",
                                "answer_id": k + 1,
                            }
                            for k in range(10)
                        ],
                        "image_id": n,
                        "answer_type": "other",
                        "question_id": 1000 * n,
                    }
                    for n in numbers
                ],
                "data_type": "mscoco",
            },
        )
    return folder


def aokvqa(folder: Path, splits: dict[str, range]) -> Path:
    """aokvqa_v1p0.tar.gz. No pictures: they are COCO's of 2017."""
    for split, numbers in splits.items():
        entries = []
        for n in numbers:
            entry = {
                "split": split,
                "image_id": n,
                "question_id": f"22MexNkBPpdZGX6sxbxVB{n}",
                "question": "What is it?",
                "choices": list(THINGS),
            }
            if split != "test":
                entry |= {"correct_choice_idx": n % 4, "direct_answers": [THINGS[n % 4]] * 9 + ["thing"]}
                entry |= {"difficult_direct_answer": n == 1, "rationales": ["It has ears."] * 3}
            else:
                entry |= {"difficult_direct_answer": False}
            entries.append(entry)
        write(folder / f"aokvqa_v1p0_{split}.json", entries)
    write(folder / "specialized_vocab_train.csv", "cat\ndog\n")
    return folder


def gqa(folder: Path) -> Path:
    """images.zip and questions1.2.zip."""
    for n, name in enumerate(("2370799", "n161313", "2354786")):
        picture(folder / "images" / f"{name}.jpg", n)

    def questions(count: int, answered: bool = True) -> dict:
        found = {}
        for n, name in list(enumerate(("2370799", "n161313", "2354786")))[:count]:
            found[f"20100000{n}"] = {
                "imageId": name,
                "question": "Is there a cat?",
                "isBalanced": True,
                **({"answer": "yes" if n == 0 else "no", "fullAnswer": "Yes, there is."} if answered else {}),
                **(
                    {"types": {"detailed": "existC", "semantic": "obj", "structural": "verify"}}
                    if answered
                    else {}
                ),
            }
        return found

    write(folder / "train_balanced_questions.json", questions(1))
    write(folder / "val_balanced_questions.json", questions(2))
    write(folder / "testdev_balanced_questions.json", questions(3))
    write(folder / "testdev_all_questions.json", questions(2))
    write(folder / "test_balanced_questions.json", questions(3, answered=False))
    for shard in range(2):
        write(folder / "train_all_questions" / f"train_all_questions_{shard}.json", questions(1))
    write(folder / "train_sceneGraphs.json", {})
    return folder


def genome(folder: Path) -> Path:
    """images.zip, images2.zip, question_answers.json.zip, region_descriptions.json.zip."""
    picture(folder / "VG_100K" / "1.jpg", 0)
    picture(folder / "VG_100K_2" / "2.jpg", 1)
    write(
        folder / "question_answers.json",
        [
            {
                "id": n + 1,
                "qas": [
                    {
                        "a_objects": [],
                        "question": "What color is it?",
                        "image_id": n + 1,
                        "qa_id": 986769 + n,
                        "answer": f"{COLOURS[n].title()}.",
                        "q_objects": [],
                    }
                ],
            }
            for n in range(2)
        ],
    )
    write(
        folder / "region_descriptions.json",
        [
            {
                "regions": [
                    {
                        "region_id": 10 * n + k,
                        "width": 8,
                        "height": 8,
                        "image_id": n + 1,
                        "phrase": text,
                        "y": 1,
                        "x": 1,
                    }
                    for k, text in enumerate(captions_of(n))
                ],
                "id": n + 1,
            }
            for n in range(2)
        ],
    )
    write(
        folder / "image_data.json", [{"width": 24, "height": 20, "url": "", "image_id": 1, "coco_id": None}]
    )
    return folder


def textvqa(folder: Path) -> Path:
    """TextVQA_0.5.1_*.json and train_val_images.zip."""
    names = ("0054c91397f2fe05", "f441f29812b385ad", "e1e6a8a7a3b3c5d7")
    for n, name in enumerate(names):
        picture(folder / "train_images" / f"{name}.jpg", n)
    for split, chosen in (("train", names[:2]), ("val", names[1:]), ("test", names[:1])):
        data = [
            {
                "question": "what is the brand?",
                "image_id": name,
                "image_classes": ["Bottle"],
                "flickr_original_url": "",
                "flickr_300k_url": "",
                "image_width": 24,
                "image_height": 20,
                **({"answers": ["nokia"] * 7 + ["sony"] * 3} if split != "test" else {}),
                "question_tokens": ["what"],
                "question_id": 34602 + n,
                "set_name": split,
            }
            for n, name in enumerate(chosen)
        ]
        content = {"dataset_type": split, "dataset_name": "textvqa", "dataset_version": "0.5.1", "data": data}
        write(folder / f"TextVQA_0.5.1_{split}.json", content)
    return folder


def vizwiz(folder: Path) -> Path:
    """Annotations.zip, train.zip, val.zip, test.zip."""
    for split in ("train", "val", "test"):
        entries = []
        for n in range(3):
            name = f"VizWiz_{split}_{n:08d}.jpg"
            picture(folder / split / name, n)
            entry: dict = {"image": name, "question": "What is this?"}
            if split != "test":
                said = ["unanswerable"] * 10 if n == 2 else ["basil leaves"] * 6 + ["basil"] * 4
                entry["answers"] = [{"answer_confidence": "yes", "answer": each} for each in said]
                entry |= {"answer_type": "unanswerable" if n == 2 else "other", "answerable": int(n != 2)}
            entries.append(entry)
        write(folder / "Annotations" / f"{split}.json", entries)
    return folder


def scienceqa(folder: Path) -> Path:
    """The repository's data/scienceqa and train.zip, val.zip, test.zip, unpacked below images/."""
    problems = {}
    splits: dict[str, list[str]] = {
        "train": ["1", "2"],
        "val": ["3"],
        "test": ["4", "5"],
        "trainval": ["1", "2", "3"],
    }
    for split in ("train", "val", "test"):
        for key in splits[split]:
            has = key != "2"
            problems[key] = {
                "question": "Which of these is alive?",
                "choices": ["a rock", "a cat"],
                "answer": 1,
                "hint": "Living things grow." if key == "4" else "",
                "image": "image.png" if has else None,
                "task": "closed choice",
                "grade": "grade8" if key == "5" else "grade2",
                "subject": "natural science",
                "topic": "biology",
                "category": "Classification",
                "skill": "Identify living things",
                "lecture": "",
                "solution": "",
                "split": split,
            }
            if has:
                picture(folder / "images" / split / key / "image.png", int(key))
    write(folder / "problems.json", problems)
    write(folder / "pid_splits.json", splits)
    return folder


def mmbench(folder: Path) -> Path:
    """mmbench_dev_20230712.tsv."""
    stream = io.BytesIO()
    Image.new("RGB", (24, 20), "red").save(stream, "JPEG")
    names = [
        "index",
        "question",
        "hint",
        "A",
        "B",
        "C",
        "D",
        "answer",
        "category",
        "image",
        "source",
        "l2-category",
        "comment",
        "split",
    ]
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "mmbench_dev_20230712.tsv").open("w", newline="") as file:
        table = csv.DictWriter(file, names, delimiter="\t")
        table.writeheader()
        row = {
            "index": 241,
            "question": "Which colour\nis it?",
            "hint": "Look.",
            "A": "blue",
            "B": "red",
            "answer": "B",
        }
        row |= {"category": "attribute_recognition", "l2-category": "finegrained_perception", "split": "dev"}
        table.writerow(row | {"image": base64.b64encode(stream.getvalue()).decode()})
        table.writerow(row | {"index": 1000241, "image": "241", "answer": "A", "A": "red", "B": "blue"})
    return folder


def pope(folder: Path, numbers: range) -> Path:
    """The repository's output/coco. No pictures: they are COCO's val2014."""
    for kind in ("random", "popular", "adversarial"):
        lines = [
            json.dumps(
                {
                    "question_id": n,
                    "image": coco_name("val2014", n),
                    "image_id": n,
                    "text": f"Is there a {THINGS[n % 4]} in the image?",
                    "label": "yes" if n % 2 else "no",
                }
            )
            for n in numbers
        ]
        write(folder / "coco" / f"coco_pope_{kind}.json", "\n".join(lines) + "\n")
    return folder


def cc3m(folder: Path) -> Path:
    """Google's tables, and pictures as DownloadConceptualCaptions saves them; one address is dead."""
    for table, below in (
        ("Train_GCC-training", "training"),
        ("Validation_GCC-1.1.0-Validation", "validation"),
    ):
        lines = []
        for n in range(4):
            address = f"http://example.com/{below}/{n}.jpg"
            lines.append(f"{captions_of(n)[0]}\t{address}\n")
            if n != 2:
                crc = zlib.crc32(address.encode())
                picture(folder / below / (f"{n}_{crc}" if below == "validation" else str(crc)), n)
        write(folder / f"{table}.tsv", "".join(lines))
    return folder


def img2dataset(folder: Path) -> Path:
    """img2dataset's output_format=files: folders of picture, text and record."""
    for shard in range(2):
        for row in range(2):
            path = folder / f"{shard:05d}" / f"{shard:05d}{row:04d}.jpg"
            picture(path, 2 * shard + row)
            write(path.with_suffix(".txt"), captions_of(2 * shard + row)[0])
            write(
                path.with_suffix(".json"),
                {"key": path.stem, "caption": captions_of(2 * shard + row)[0], "url": ""},
            )
        write(folder / f"{shard:05d}_stats.json", {"count": 2, "successes": 2})
        (folder / f"{shard:05d}.parquet").write_bytes(b"PAR1")
    return folder


def shards(folder: Path, records: bool = False) -> Path:
    """img2dataset's output_format=webdataset: tars of picture, text and record; or of picture and conversation."""
    folder.mkdir(parents=True, exist_ok=True)
    for shard in range(2):
        with tarfile.open(folder / f"{shard:05d}.tar", "w") as archive:
            for row in range(3):
                n, key = 3 * shard + row, f"{shard:05d}{row:04d}"
                stream = io.BytesIO()
                Image.new("RGB", (24, 20 + n), COLOURS[n % 4]).save(stream, "JPEG")
                members = {"jpg": stream.getvalue()}
                if records:
                    members["json"] = json.dumps(llava_record(n, f"{key}.jpg")).encode()
                else:
                    members["txt"] = captions_of(n)[0].encode()
                    members["json"] = json.dumps(
                        {"caption": captions_of(n)[0], "key": key, "status": "success"}
                    ).encode()
                for suffix, content in members.items():
                    member = tarfile.TarInfo(f"{key}.{suffix}")
                    member.size = len(content)
                    archive.addfile(member, io.BytesIO(content))
        write(folder / f"{shard:05d}_stats.json", {"count": 3})
    return folder


def llava_record(number: int, image: str | None) -> dict:
    thing = THINGS[number % 4]
    first = "What is it?\n<image>" if number % 2 else "<image>\nWhat is it?"
    return {
        "id": f"{number:012d}",
        **({"image": image} if image else {}),
        "conversations": [
            {"from": "human", "value": first if image else "What is a cat?"},
            {"from": "gpt", "value": f"It is a {thing}."},
            {"from": "human", "value": "And the colour?"},
            {"from": "gpt", "value": f"It is {COLOURS[number % 4]}."},
        ],
    }


def llava(folder: Path) -> Path:
    """llava_v1_5_mix665k.json beside the folders that LLaVA's README asks for; one conversation is text alone."""
    picture(folder / "coco" / "train2017" / "000000000001.jpg", 1)
    picture(folder / "gqa" / "images" / "2.jpg", 2)
    picture(folder / "ocr_vqa" / "images" / "0006405.jpg", 3)
    picture(folder / "textvqa" / "train_images" / "0054c91397f2fe05.jpg", 0)
    picture(folder / "vg" / "VG_100K" / "2.jpg", 3)
    places = (
        "textvqa/train_images/0054c91397f2fe05.jpg",
        "coco/train2017/000000000001.jpg",
        "gqa/images/2.jpg",
        "vg/VG_100K/2.jpg",
    )
    entries = [llava_record(n, place) for n, place in enumerate(places)]
    write(folder / "llava_v1_5_mix665k.json", [*entries, llava_record(9, None)])
    return folder


def sharegpt4v(folder: Path) -> Path:
    """sharegpt4v_instruct_gpt4-vision_cap100k.json and the pictures' folders, below data/."""
    picture(folder / "data" / "coco" / "train2017" / "000000000002.jpg", 2)
    picture(folder / "data" / "sam" / "images" / "sa_1.jpg", 1)
    entries = [
        {
            "id": str(n),
            "image": place,
            "conversations": [
                {"from": "human", "value": "<image>\nDescribe this picture."},
                {"from": "gpt", "value": captions_of(n)[0]},
            ],
        }
        for n, place in ((2, "coco/train2017/000000000002.jpg"), (1, "sam/images/sa_1.jpg"))
    ]
    write(folder / "sharegpt4v_instruct_gpt4-vision_cap100k.json", entries)
    return folder


def imagefolder(folder: Path, table: str = "jsonl") -> Path:
    """`datasets`' imagefolder: a folder a split with metadata.jsonl or metadata.csv."""
    for split, numbers in (("train", range(3)), ("test", range(3, 6))):
        rows = []
        for n in numbers:
            picture(folder / split / f"{n:04d}.png", n)
            rows.append({"file_name": f"{n:04d}.png", "text": captions_of(n)[0]})
        if table == "jsonl":
            write(folder / split / "metadata.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
        else:
            write(
                folder / split / "metadata.csv",
                "file_name,text\n" + "".join(f"{r['file_name']},{r['text']}\n" for r in rows),
            )
    return folder
