"""Write small samples of the public benchmark formats: our own problems and drawings, in their hubs' layout.

They are for trying `megatron-eureka eval` and for its tests; they measure nothing.

    python examples/benchmarks/make_samples.py examples/benchmarks/samples
"""

from __future__ import annotations

import argparse
import json
from io import BytesIO
from pathlib import Path

import pyarrow
import pyarrow.parquet
from PIL import Image, ImageDraw

SIZE = (112, 56)  # pixels: eight visual tokens of Qwen2.5-VL
VERSIONS = ("Text Dominant", "Text Lite", "Text Intensive", "Vision Intensive", "Vision Dominant", "Vision Only")


def draw(*shapes: tuple) -> bytes:
    """An image of `("bar", left, height)`, `("circle", x, radius)`, `("box", x, side)`, `("text", x, words)`."""
    image = Image.new("RGB", SIZE, "white")
    pen = ImageDraw.Draw(image)
    for kind, x, value in shapes:
        if kind == "bar":
            pen.rectangle((x, 52 - value, x + 12, 52), fill="steelblue")
        elif kind == "circle":
            pen.ellipse((x, 28 - value, x + 2 * value, 28 + value), outline="black", width=2)
        elif kind == "box":
            pen.rectangle((x, 8, x + value, 8 + value), outline="black", width=2)
        else:
            pen.text((x, 22), value, fill="black")
    file = BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def write_image(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def write_json(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def write_lines(path: Path, rows: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def write_parquet(path: Path, rows: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)


def vista_row(pid: int, question: str, answer: str, image: bytes, kind: str, **more: object) -> dict:
    """A row of MathVista; `kind` is multi_choice or an answer type."""
    is_choice = kind == "multi_choice"
    metadata = {"category": "math-targeted-vqa", "context": "synthetic scene", "grade": "elementary school"}
    metadata |= {"language": "english", "skills": more.pop("skills", ["arithmetic reasoning"]), "split": "testmini"}
    metadata |= {"source": "own drawings", "task": more.pop("task", "figure question answering")}
    row = {
        "pid": str(pid),
        "question": question,
        "image": f"images/{pid}.png",
        "choices": None,
        "unit": None,
        "precision": None,
        "answer": answer,
        "question_type": "multi_choice" if is_choice else "free_form",
        "answer_type": "text" if is_choice else kind,
        "metadata": metadata,
    } | more
    query = f"Question: {question}\nPlease give the final value at the end."
    return row | {"query": query, "decoded_image": {"bytes": image, "path": f"{pid}.png"}}


def mathvista(folder: Path) -> None:
    """Parquet with images inside, and the same rows as testmini.json with a folder of images."""
    bars = draw(("bar", 10, 20), ("bar", 40, 40), ("bar", 70, 30))
    circle, boxes = draw(("circle", 30, 20)), draw(("box", 10, 20), ("box", 50, 30))
    sides = {"skills": ["geometry reasoning", "arithmetic reasoning"], "task": "geometry problem solving"}
    rows = [
        vista_row(1, "How many bars are there?", "3", bars, "integer"),
        vista_row(2, "Which bar is the tallest?", "middle", bars, "multi_choice", choices=["left", "middle", "right"]),
        vista_row(3, "Which shape is it?", "circle", circle, "multi_choice", choices=["circle", "square"], **sides),
        vista_row(4, "The radius is 2. What is the area?", "12.57", circle, "float", precision=2.0, **sides),
        vista_row(
            5, "How wide is the left box in m, if a pixel is 1 cm?", "0.2", boxes, "float", precision=1.0, unit="m"
        ),
        vista_row(6, "Give the heights of the bars in pixels, from left to right.", "[20, 40, 30]", bars, "list"),
        vista_row(7, "What colour are the bars?", "blue", bars, "text", skills=["statistical reasoning"]),
        vista_row(8, "Half of the right box is what share of it?", "0.5", boxes, "float", precision=1.0, **sides),
    ]
    write_parquet(folder / "data" / "testmini-00000-of-00001.parquet", rows)
    for row in rows:
        write_image(folder / row["image"], row.pop("decoded_image")["bytes"])
    write_json(folder / "testmini.json", {row["pid"]: row for row in rows})


def mathverse(folder: Path) -> None:
    """testmini.json with images/images_version_*, testmini.parquet, and the text-only version beside them."""
    choice = "A box has a side of 3. What is its area?\nChoices:\nA:6\nB:9\nC:12\nD:3"
    free = "A circle has a radius of 3. What is its diameter?"
    rows, images = [], {}
    for problem, (question, answer, kind) in enumerate([(choice, "B", "multi-choice"), (free, "6", "free-form")], 1):
        for number, version in enumerate(VERSIONS):
            shapes = [("box", 10, 30)] if problem == 1 else [("circle", 10, 20)]
            name = f"images_version_{'1-4' if number < 4 else number + 1}/image_{problem}.png"
            images[name] = draw(*shapes, *([("text", 60, "side 3")] if number > 2 else []))
            text = {"Vision Only": "", "Text Lite": question.replace("A box has a side of 3. ", "")}.get(
                version, question
            )
            rows.append(
                {
                    "sample_index": str(len(rows) + 1),
                    "problem_index": str(problem),
                    "problem_version": version,
                    "question": text,
                    "image": name,
                    "answer": answer,
                    "question_type": kind,
                    "metadata": {
                        "split": "testmini",
                        "source": "own drawings",
                        "subject": "Plane Geometry",
                        "subfield": "Area" if problem == 1 else "Length",
                    },
                    "query_wo": f"Please directly answer the question.\nQuestion: {text}",
                    "query_cot": f"Please first conduct reasoning, and then answer the question.\nQuestion: {text}",
                    "question_for_eval": question,
                }
            )
    for name, data in images.items():
        write_image(folder / "images" / name, data)
    write_json(folder / "testmini.json", rows)
    inside = [{**row, "image": {"bytes": images[row["image"]], "path": row["image"]}} for row in rows]
    write_parquet(folder / "testmini.parquet", inside)
    only_text = [
        {**row, "problem_version": "Text Only", "image": ""} for row in rows if "Dominant" in row["problem_version"]
    ]
    write_json(folder / "testmini_text_only.json", only_text)


def mathvision(folder: Path) -> None:
    """Parquet with images inside, and the same rows as test.jsonl with a folder of images."""
    boxes = draw(("box", 5, 20), ("box", 40, 20), ("box", 75, 20))
    labels = draw(("box", 10, 15), ("text", 12, "A"), ("circle", 60, 15), ("text", 70, "B"))
    problems = [
        ("How many boxes are there?\n<image1>", [], "3", boxes, "counting", 1),
        ("Which figure is round?\n<image1>", ["A", "B"], "B", labels, "metric geometry - length", 2),
        ("How many corners do the boxes have together?\n<image1>", ["4", "8", "12", "16"], "C", boxes, "arithmetic", 1),
        ("What share of the boxes is one box?\n<image1>", [], "\\frac{1}{3}", boxes, "arithmetic", 3),
        (
            "A box has a side of 1. How long is its diagonal?\n<image1>",
            [],
            "1.41",
            boxes,
            "metric geometry - length",
            4,
        ),
        ("A pattern has 3 boxes a row. How many in 7 rows?\n<image1>", ["10", "21", "24"], "B", boxes, "counting", 2),
    ]
    rows = []
    for number, (question, options, answer, image, subject, level) in enumerate(problems, 1):
        row = {"id": str(number), "question": question, "options": options, "image": f"images/{number}.png"}
        row |= {"answer": answer, "solution": None, "level": level, "subject": subject}
        write_image(folder / row["image"], image)
        rows.append(row | {"decoded_image": {"bytes": image, "path": f"{number}.png"}})
    write_parquet(folder / "data" / "test-00000-of-00001.parquet", rows)
    write_lines(folder / "test.jsonl", [{k: v for k, v in row.items() if k != "decoded_image"} for row in rows])


def olympiadbench(folder: Path) -> None:
    """The hub's parquet with <image_1>, and the authors' JSON with <img_7> and images/7.jpg."""
    image = draw(("circle", 20, 20), ("box", 70, 25))
    problems = [
        ("In <image_1> the circle has radius 1. Find its area.", ["$\\pi$"], False, "Numerical", None, None),
        ("Find all $x$ with $x^{2}=4$; <image_1> is only a picture.", ["$2,-2$"], True, "Numerical", None, None),
        ("The side in <image_1> is $a$. Find the diagonal.", ["$a \\sqrt{2}$"], False, "Expression", None, None),
        ("A car goes 1 km in 3 min. How fast is it? <image_1>", ["$20$"], False, "Numerical", "km/h", "0.5"),
        ("Find the line through $(0,1)$ and $(1,3)$. <image_1>", ["$y=2 x+1$"], False, "Equation", None, None),
        ("Give the centre of <image_1>, which is 4 wide and 2 high.", ["$(2,1)$"], False, "Tuple", None, None),
        ("For which $x$ is $x^{2}<1$? <image_1>", ["$(-1,1)$"], False, "Interval", None, None),
        ("Find $\\sqrt{2}$ and $\\sqrt{3}$. <image_1>", ["$1.41,1.73$"], True, "Numerical", None, "1e-2,1e-2"),
    ]
    rows = []
    for number, (question, answer, several, kind, unit, error) in enumerate(problems, 1):
        row = {"id": number, "question": question, "solution": ["Left out."], "final_answer": answer, "context": None}
        row |= {f"image_{i}": {"bytes": image, "path": None} if i == 1 else None for i in range(1, 10)}
        row |= {"modality": "Multimodal", "difficulty": "Competition", "is_multiple_answer": several, "unit": unit}
        row |= {"answer_type": kind, "error": error, "question_type": "Open-ended", "language": "English"}
        rows.append(row | {"subfield": "Geometry" if "image_1> the" in question else "Algebra", "subject": "Math"})
    name = "OE_MM_maths_en_COMP"
    write_parquet(folder / "OlympiadBench" / name / f"{name}.parquet", rows)
    write_json(folder / "data" / f"{name}.json", [_authors_row(row) for row in rows])
    buffer = BytesIO()
    Image.open(BytesIO(image)).save(buffer, "JPEG")
    write_image(folder / "images" / "7.jpg", buffer.getvalue())


def _authors_row(row: dict) -> dict:
    kept = {name: value for name, value in row.items() if not name.startswith("image_")}
    return kept | {"question": row["question"].replace("<image_1>", "<img_7>")}


def k12(folder: Path) -> None:
    """A JSON list and a folder of images."""
    problems = [
        ("How many dots does it show? <image>", "2", draw(("circle", 10, 8), ("circle", 60, 8)), "Maths"),
        ("Which statement is right? <image>\nA. It is a box\nB. It is a circle", "A", draw(("box", 20, 30)), "Maths"),
        ("The box has a side of 4 cm. Find its area.", "16 cm^2", draw(("box", 20, 30)), "Maths"),
        ("Solve $2x = 1$. <image>", "\\frac{1}{2}", draw(("text", 10, "2x = 1")), "Maths"),
        (
            "What is the boiling point of water in degrees Celsius? <image>",
            "100",
            draw(("text", 10, "water")),
            "Physics",
        ),
        ("Name the figure. <image>", "circle", draw(("circle", 20, 20)), "Maths"),
    ]
    rows = []
    for number, (question, answer, image, subject) in enumerate(problems, 1):
        write_image(folder / "images" / f"{number}.png", image)
        rows.append({"id": f"k12-{number}", "question": question, "answer": answer, "subject": subject})
        rows[-1]["image_path"] = f"images/{number}.png"
    write_json(folder / "k12.json", rows)


def training_format(folder: Path) -> None:
    """JSONL lines as training takes them, one with the turns as a JSON string."""
    write_image(folder / "images" / "bars.png", draw(("bar", 20, 30), ("bar", 60, 20)))
    image = {"type": "image", "image": "images/bars.png"}
    questions = [("How many bars are there?", "2"), ("Is the left bar taller?", "yes"), ("What is 30 - 20?", "10")]
    questions += [("What is $\\frac{20}{30}$?", "\\frac{2}{3}"), ("A. left B. right: which is shorter?", "B")]
    rows = []
    for number, (question, answer) in enumerate(questions, 1):
        turns = [{"role": "user", "content": [image, {"type": "text", "text": question}]}]
        message = json.dumps(turns) if number == 1 else turns
        rows.append({"id": f"own-{number}", "message": message, "answer": answer})
    rows.append({"id": "own-6", "message": [{"role": "user", "content": "What is 2 + 2?"}], "answer": "4"})
    write_lines(folder / "test.jsonl", rows)


def make_samples(folder: Path) -> None:
    """All six, each in a folder of its own."""
    makers = {"mathvista": mathvista, "mathverse": mathverse, "mathvision": mathvision}
    makers |= {"olympiadbench": olympiadbench, "k12": k12, "jsonl": training_format}
    for name, maker in makers.items():
        maker(folder / name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder to write to")
    make_samples(parser.parse_args().folder)


if __name__ == "__main__":
    main()
