"""Tests of `run.py --cite`: BibTeX of every paper."""

import re

import pytest

import segmodels
from experiments import run
from experiments.command_line.citations import citation

TITLES = {  # as printed on the papers
    "a2net": "A2-Nets: Double Attention Networks",
    "bisenet": "BiSeNet: Bilateral Segmentation Network for Real-time Semantic Segmentation",
    "ccnet": "CCNet: Criss-Cross Attention for Semantic Segmentation",
    "danet": "Dual Attention Network for Scene Segmentation",
    "ddrnet": "Deep Dual-resolution Networks for Real-time and Accurate Semantic Segmentation of Road "
    "Scenes",
    "deeplabv2": "DeepLab: Semantic Image Segmentation with Deep Convolutional Nets, Atrous "
    "Convolution, and Fully Connected CRFs",
    "emanet": "Expectation-Maximization Attention Networks for Semantic Segmentation",
    "fcn": "Fully Convolutional Networks for Semantic Segmentation",
    "isanet": "Interlaced Sparse Self-Attention for Semantic Segmentation",
    "nonlocalnet": "Non-local Neural Networks",
    "ocnet": "OCNet: Object Context Network for Scene Parsing",
    "psanet": "PSANet: Point-wise Spatial Attention Network for Scene Parsing",
    "pspnet": "Pyramid Scene Parsing Network",
    "sfnet": "Semantic Flow for Fast and Accurate Scene Parsing",
    "unet": "U-Net: Convolutional Networks for Biomedical Image Segmentation",
    "vit": "An Image is Worth 16x16 Words: Transformers for Image Recognition at Scale",
}


@pytest.mark.parametrize("paper", sorted({*segmodels.papers()} - {"smp"}))
def test_every_paper_has_an_entry_with_all_its_fields(paper: str) -> None:
    entry = citation(paper)
    kind, key = re.match(r"@(\w+)\{(\w+),\n", entry).groups()
    fields = dict(re.findall(r"^  (\w+) = \{(.+)\},$", entry, re.MULTILINE))
    assert key == f"{fields['author'].split(' and ')[0].lower()}{fields['year']}{paper}"
    assert all(re.fullmatch(r"[\w\- ]+", name) for name in fields["author"].split(" and "))
    assert re.fullmatch(r"(19|20)\d\d", fields["year"])
    assert {"article": "journal", "inproceedings": "booktitle", "misc": "eprint"}[kind] in fields
    assert fields.get("eprint") == segmodels.papers()[paper].arxiv
    title = fields["title"].strip("{}")
    assert title == TITLES.get(paper, title)
    assert entry.count("{") == entry.count("}")


def test_editions_and_journals() -> None:
    assert "journal = {IEEE TPAMI}" in citation("segnet")
    assert citation("ddrnet").startswith("@misc{hong2021ddrnet,")


def test_the_command_cites_each_paper_of_a_pattern_once(capsys: pytest.CaptureFixture) -> None:
    assert run.main(["--model", "stdc/*,bisenet", "--cite"]) == 0
    assert capsys.readouterr().out == f"{citation('stdc')}\n\n{citation('bisenet')}\n"


def test_what_is_no_paper_is_a_comment() -> None:
    assert citation("smp").startswith("% SMP: networks of segmentation-models-pytorch")
    assert "\n" not in citation("smp")
