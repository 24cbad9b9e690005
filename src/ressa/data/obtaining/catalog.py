"""The datasets that `ressa data` knows: what each is, where it is, what it weighs and under which terms it comes.

Addresses are the datasets' own. Digests are given where a dataset's makers or widely used tools publish them (COCO's
MD5 sums, ParlAI's SHA-256 of VQAv2); other archives are checked by their own checksums when they are unpacked.
"""

from dataclasses import dataclass

from ressa.errors import UsageError

GB, MB = 10**9, 10**6


@dataclass(frozen=True)
class Download:
    """One file. size: about how many bytes. digest: as `fetch` takes it. into: the folder for it or what it holds."""

    url: str
    size: int
    digest: str = ""
    into: str = ""

    @property
    def name(self) -> str:
        return self.url.partition("?")[0].rpartition("/")[2]


@dataclass(frozen=True)
class Dataset:
    """A dataset. tasks: what it serves. needs: datasets whose pictures it uses. layout: what it looks like, unpacked.

    by_hand: what one has to do oneself, where its makers ask who downloads it.
    """

    name: str
    title: str
    tasks: tuple[str, ...]
    licence: str
    home: str
    layout: str
    downloads: tuple[Download, ...] = ()
    needs: tuple[str, ...] = ()
    by_hand: str = ""

    @property
    def size(self) -> int:
        return sum(download.size for download in self.downloads)


def _coco(year: str, sums: dict[str, tuple[int, str]]) -> tuple[Download, ...]:
    site = "http://images.cocodataset.org"
    return tuple(
        Download(
            f"{site}/{'annotations' if name.startswith('ann') else 'zips'}/{name}{year}.zip", size, digest
        )
        for name, (size, digest) in sums.items()
    )


_VQA = "https://s3.amazonaws.com/cvmlp/vqa/mscoco/vqa"
_OKVQA = "https://okvqa.allenai.org/static/data"
_GENOME = "https://homes.cs.washington.edu/~ranjay/visualgenome/data/dataset"
_TEXTVQA = "https://dl.fbaipublicfiles.com/textvqa"
_VIZWIZ = "https://vizwiz.cs.colorado.edu/VizWiz_final"
_SCIENCEQA = "https://raw.githubusercontent.com/lupantech/ScienceQA/main/data/scienceqa"
_POPE = "https://raw.githubusercontent.com/AoiDragon/POPE/main/output/coco"
_COCO_TERMS = "annotations CC BY 4.0; pictures under Flickr's terms"

DATASETS = {
    dataset.name: dataset
    for dataset in (
        Dataset(
            "coco2014",
            "COCO captions 2014",
            ("caption", "retrieval"),
            _COCO_TERMS,
            "https://cocodataset.org",
            "annotations/captions_train2014.json, train2014/, val2014/",
            _coco(
                "2014",
                {
                    "train": (13_510_573_713, "md5:0da8c0bd3d6becc4dcb32757491aca88"),
                    "val": (6_645_013_297, "md5:a3d79f5ed8d289b7a7554ce06a5782b3"),
                    "annotations_trainval": (252_872_794, "md5:0a379cfc70b0e71301e0f377548639bd"),
                },
            ),
        ),
        Dataset(
            "coco2017",
            "COCO captions 2017",
            ("caption", "retrieval"),
            _COCO_TERMS,
            "https://cocodataset.org",
            "annotations/captions_train2017.json, train2017/, val2017/",
            _coco(
                "2017",
                {
                    "train": (19_336_861_798, "md5:cced6f7f71b7629ddf16f17bbcfab6b2"),
                    "val": (815_585_330, "md5:442b8da7639aecaf257c1dceb8ba8c80"),
                    "annotations_trainval": (252_907_541, "md5:f4bbac642086de4f52a3fdda2de5fa2c"),
                },
            ),
        ),
        Dataset(
            "karpathy",
            "Karpathy's splits of COCO and Flickr30k",
            ("caption", "retrieval", "flickr30k"),
            "captions as COCO's and Flickr30k's",
            "https://cs.stanford.edu/people/karpathy/deepimagesent",
            "dataset_coco.json, dataset_flickr30k.json",
            (
                Download(
                    "https://cs.stanford.edu/people/karpathy/deepimagesent/caption_datasets.zip", 37 * MB
                ),
            ),
            ("coco2014",),
        ),
        Dataset(
            "vqav2",
            "VQAv2",
            ("vqa",),
            "CC BY 4.0",
            "https://visualqa.org",
            "v2_OpenEnded_mscoco_val2014_questions.json, v2_mscoco_val2014_annotations.json",
            (
                Download(
                    f"{_VQA}/v2_Questions_Train_mscoco.zip",
                    7_239_401,
                    "sha256:05a64b6e2582d06d7585f5429674a9a33851878be1bff9f8668cdcf792df611e",
                ),
                Download(
                    f"{_VQA}/v2_Questions_Val_mscoco.zip",
                    3_494_929,
                    "sha256:e71f6c5c3e97a51d050f28243e262b28cd0c48d11a6b4632d769d30d3f93222a",
                ),
                Download(
                    f"{_VQA}/v2_Annotations_Train_mscoco.zip",
                    21_708_861,
                    "sha256:fb101bcefe91422c543c2bb6d70af11eb3119d0ff745ae283d09acdf66250853",
                ),
                Download(
                    f"{_VQA}/v2_Annotations_Val_mscoco.zip",
                    10_518_930,
                    "sha256:0caae7c8d1dafd852727f5ac046bc1efca9b72026bd6ffa34fc489f3a7b3291e",
                ),
            ),
            ("coco2014",),
        ),
        Dataset(
            "okvqa",
            "OK-VQA",
            ("okvqa",),
            "CC BY 4.0",
            "https://okvqa.allenai.org",
            "OpenEnded_mscoco_val2014_questions.json, mscoco_val2014_annotations.json",
            tuple(
                Download(f"{_OKVQA}/{name}.json.zip", size)
                for name, size in (
                    ("OpenEnded_mscoco_train2014_questions", MB // 4),
                    ("OpenEnded_mscoco_val2014_questions", MB // 6),
                    ("mscoco_train2014_annotations", MB),
                    ("mscoco_val2014_annotations", MB // 2),
                )
            ),
            ("coco2014",),
        ),
        Dataset(
            "aokvqa",
            "A-OKVQA",
            ("aokvqa",),
            "Apache 2.0",
            "https://allenai.org/project/a-okvqa/home",
            "aokvqa_v1p0_train.json, aokvqa_v1p0_val.json",
            (
                Download(
                    "https://prior-datasets.s3.us-east-2.amazonaws.com/aokvqa/aokvqa_v1p0.tar.gz", 10 * MB
                ),
            ),
            ("coco2017",),
        ),
        Dataset(
            "gqa",
            "GQA",
            ("gqa",),
            "CC BY 4.0",
            "https://cs.stanford.edu/people/dorarad/gqa",
            "testdev_balanced_questions.json, images/",
            (
                Download(
                    "https://downloads.cs.stanford.edu/nlp/data/gqa/questions1.2.zip", 1_400 * MB, into="gqa"
                ),
                Download(
                    "https://downloads.cs.stanford.edu/nlp/data/gqa/images.zip", 20_300 * MB, into="gqa"
                ),
            ),
        ),
        Dataset(
            "vg",
            "Visual Genome",
            ("vg", "caption"),
            "CC BY 4.0",
            "https://homes.cs.washington.edu/~ranjay/visualgenome",
            "question_answers.json, region_descriptions.json, VG_100K/, VG_100K_2/",
            (
                Download(f"{_GENOME}/question_answers.json.zip", 24_776_315, into="vg"),
                Download(f"{_GENOME}/region_descriptions.json.zip", 127_377_968, into="vg"),
                Download("https://cs.stanford.edu/people/rak248/VG_100K_2/images.zip", 9_730 * MB, into="vg"),
                Download(
                    "https://cs.stanford.edu/people/rak248/VG_100K_2/images2.zip", 5_470 * MB, into="vg"
                ),
            ),
        ),
        Dataset(
            "textvqa",
            "TextVQA",
            ("textvqa",),
            "CC BY 4.0",
            "https://textvqa.org",
            "TextVQA_0.5.1_val.json, train_images/",
            (
                Download(f"{_TEXTVQA}/data/TextVQA_0.5.1_train.json", 103 * MB, into="textvqa"),
                Download(f"{_TEXTVQA}/data/TextVQA_0.5.1_val.json", 16 * MB, into="textvqa"),
                Download(f"{_TEXTVQA}/images/train_val_images.zip", 7_070 * MB, into="textvqa"),
            ),
        ),
        Dataset(
            "vizwiz",
            "VizWiz-VQA",
            ("vizwiz",),
            "CC BY 4.0",
            "https://vizwiz.org/tasks-and-datasets/vqa",
            "Annotations/val.json or val.json, train/, val/",
            (
                Download(f"{_VIZWIZ}/vqa_data/Annotations.zip", 8 * MB, into="vizwiz"),
                Download(f"{_VIZWIZ}/images/train.zip", 10_900 * MB, into="vizwiz"),
                Download(f"{_VIZWIZ}/images/val.zip", 3_400 * MB, into="vizwiz"),
            ),
        ),
        Dataset(
            "scienceqa",
            "ScienceQA-IMG",
            ("scienceqa",),
            "CC BY-NC-SA 4.0",
            "https://scienceqa.github.io",
            "problems.json, pid_splits.json, images/test/<id>/image.png",
            (
                Download(f"{_SCIENCEQA}/problems.json", 31 * MB, into="scienceqa"),
                Download(f"{_SCIENCEQA}/pid_splits.json", MB, into="scienceqa"),
                *(
                    Download(
                        f"https://scienceqa.s3.us-west-1.amazonaws.com/images/{split}.zip",
                        size * MB,
                        into="scienceqa/images",
                    )
                    for split, size in (("train", 400), ("val", 130), ("test", 130))
                ),
            ),
        ),
        Dataset(
            "pope",
            "POPE",
            ("pope",),
            "MIT",
            "https://github.com/AoiDragon/POPE",
            "coco_pope_random.json, coco_pope_popular.json, coco_pope_adversarial.json",
            tuple(
                Download(f"{_POPE}/coco_pope_{kind}.json", MB // 2, into="pope")
                for kind in ("random", "popular", "adversarial")
            ),
            ("coco2014",),
        ),
        Dataset(
            "mmbench",
            "MMBench",
            ("mmbench",),
            "Apache 2.0",
            "https://github.com/open-compass/MMBench",
            "mmbench_dev_20230712.tsv",
            (
                Download(
                    "https://download.openmmlab.com/mmclassification/datasets/mmbench/mmbench_dev_20230712.tsv",
                    100 * MB,
                    into="mmbench",
                ),
            ),
        ),
        Dataset(
            "nocaps",
            "NoCaps",
            ("nocaps",),
            "captions CC BY 2.0; pictures of Open Images, CC BY 2.0",
            "https://nocaps.org",
            "nocaps_val_4500_captions.json, nocaps_images/",
            (
                Download(
                    "https://nocaps.s3.amazonaws.com/nocaps_val_4500_captions.json", 12 * MB, into="nocaps"
                ),
            ),
            by_hand="the pictures are Open Images': fetch those that the file names into nocaps/nocaps_images.",
        ),
        Dataset(
            "flickr30k",
            "Flickr30k",
            ("flickr30k", "retrieval"),
            "research and education only",
            "https://shannon.cs.illinois.edu/DenotationGraph",
            "flickr30k-images/, dataset_flickr30k.json (karpathy) or results_20130124.token",
            needs=("karpathy",),
            by_hand="its makers ask who downloads it: fill in their form, and unpack flickr30k-images.tar.gz.",
        ),
        Dataset(
            "cc3m",
            "Conceptual Captions (CC3M)",
            ("caption",),
            "freely usable, attribution to Google",
            "https://ai.google.com/research/ConceptualCaptions",
            "Train_GCC-training.tsv and training/, or img2dataset's folders or tar shards",
            by_hand="Google asks for a login: download the two tables, then fetch the pictures with img2dataset.",
        ),
        Dataset(
            "llava-instruct",
            "LLaVA-Instruct (mix of 665K)",
            ("instruct",),
            "CC BY 4.0, and OpenAI's terms",
            "https://huggingface.co/datasets/liuhaotian/LLaVA-Instruct-150K",
            "llava_v1_5_mix665k.json, coco/train2017/, gqa/images/, textvqa/train_images/, vg/VG_100K/, ocr_vqa/",
            (
                Download(
                    "https://huggingface.co/datasets/liuhaotian/LLaVA-Instruct-150K/resolve/main/llava_v1_5_mix665k.json",
                    1_030 * MB,
                ),
            ),
            ("coco2017", "gqa", "textvqa", "vg"),
        ),
        Dataset(
            "sharegpt4v",
            "ShareGPT4V (100K captions by GPT-4V)",
            ("instruct",),
            "CC BY-NC 4.0",
            "https://sharegpt4v.github.io",
            "sharegpt4v_instruct_gpt4-vision_cap100k.json, coco/train2017/, llava/, sam/images/",
            (
                Download(
                    "https://huggingface.co/datasets/Lin-Chen/ShareGPT4V/resolve/main/"
                    "sharegpt4v_instruct_gpt4-vision_cap100k.json",
                    134 * MB,
                ),
            ),
            ("coco2017",),
        ),
    )
}


def find_dataset(name: str) -> Dataset:
    """The dataset of this name. Raises UsageError, with the names that there are, for another one."""
    if name not in DATASETS:
        raise UsageError(f"there is no dataset {name!r}: choose one of {', '.join(DATASETS)}.")
    return DATASETS[name]
