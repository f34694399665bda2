"""Make the tiny random checkpoints of `checkpoints/`, in the file layout of BAAI/bge-m3.

    python tests/parity/make_checkpoints.py [--out tests/parity/checkpoints]

Runs in the environment that `make_dumps.py` describes (it needs torch, transformers, safetensors
and sentencepiece). Seeded: the same versions of those give the same bytes.

The weights are random, but never neutral. Layer norms, biases, the type embedding and the rows of
`<pad>` all carry noise, because a trained checkpoint's do, and because a mistake such as a lost
bias or a position counted from the wrong place must show in the output.
"""

from __future__ import annotations

import argparse
import base64
import json
import shutil
import tempfile
import unicodedata
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sentencepiece
import torch
from safetensors.torch import save_file
from sentencepiece import sentencepiece_model_pb2
from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers.models import Unigram
from tokenizers.processors import TemplateProcessing
from transformers import XLMRobertaConfig, XLMRobertaModel

HERE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Spec:
    """One checkpoint: its shape, and which of the layouts seen in the wild it stands for."""

    name: str
    seed: int
    hidden: int
    layers: int
    vocab: int
    positions: int
    colbert_dim: int
    body_file: str
    body_dtype: torch.dtype
    head_dtype: torch.dtype
    # "charsmap": XLMRobertaTokenizer with a sentencepiece character map, as BAAI/bge-m3 has.
    # "nfkc": PreTrainedTokenizerFast with normalizers of `tokenizers`, as fine-tunes may have.
    # transformers 5 rebuilds an XLMRobertaTokenizer from the vocabulary and the character map
    # alone and drops every other normalizer of tokenizer.json, so the two cannot be mixed.
    tokenizer: str


SPECS = (
    # The layout of BAAI/bge-m3 itself: a pickled body, heads in half precision.
    Spec(
        name="bin-fp16-heads",
        seed=11,
        hidden=32,
        layers=2,
        vocab=1100,
        positions=514,
        colbert_dim=32,
        body_file="pytorch_model.bin",
        body_dtype=torch.float32,
        head_dtype=torch.float16,
        tokenizer="charsmap",
    ),
    Spec(
        name="safetensors-fp32-heads",
        seed=12,
        hidden=48,
        layers=3,
        vocab=950,
        positions=130,
        colbert_dim=48,
        body_file="model.safetensors",
        body_dtype=torch.float32,
        head_dtype=torch.float32,
        tokenizer="nfkc",
    ),
    # A body in half precision, and ColBERT vectors narrower than the hidden size.
    Spec(
        name="fp16-body-colbert-24",
        seed=13,
        hidden=64,
        layers=2,
        vocab=1100,
        positions=130,
        colbert_dim=24,
        body_file="model.safetensors",
        body_dtype=torch.float16,
        head_dtype=torch.float32,
        tokenizer="charsmap",
    ),
)

# What the vocabularies are trained on. Many scripts, so that most texts of the dumps have real
# pieces; some characters are left out on purpose, so that others become <unk>.
SENTENCES = """
The quick brown fox jumps over the lazy dog while the cat sleeps in the warm sun.
What is the capital of France, and how many people live there today?
A vector database stores embeddings and finds the nearest neighbours of a query.
Dense retrieval, lexical matching and multi-vector interaction complement each other.
How do I install the package on a computer without a network connection?
The library was closed on Monday because of the heavy snow in the morning.
She sold her old bicycle and bought a small boat with a red sail.
Please send the invoice number, the order date and the total amount by email.
Water boils at one hundred degrees Celsius at sea level, but at less on a mountain.
The committee could not agree on the date of the next meeting.
Every night the old man walked along the river and counted the lights of the ships.
A function that ranks a set of documents based on the query terms in each document.
The train to the north leaves at half past seven from platform nine.
Error: could not open the file, because the disk is full or the name is wrong.
Bread, butter, cheese, apples, tomatoes and a bottle of olive oil.
The price rose from 12.50 to 19.99 within 3 weeks, about 60% in total.
Open https://www.example.org/index.html and read the page about version 2.0.
In 1969, 1984, 2001, 2016 and 2024 many things happened that we still remember.
def main(argument): return [x + 1 for x in range(10) if x > 3]
Der schnelle braune Fuchs springt über den faulen Hund.
Die Bibliothek öffnet um neun Uhr und schließt am Abend gegen sechs.
Wie heißt die Hauptstadt von Frankreich, und wie groß ist sie?
Große Datenmengen lassen sich mit einem Index schneller durchsuchen.
Im Winter frieren die Flüsse zu, und die Kinder laufen auf dem Eis.
Das Wörterbuch enthält mehr als hunderttausend Einträge und Übersetzungen.
Straßenbahnhaltestelle, Geschwindigkeitsbegrenzung und Donaudampfschifffahrt.
Le renard brun saute par-dessus le chien paresseux pendant que le chat dort.
Quelle est la capitale de la France et combien d'habitants compte-t-elle ?
L'été dernier, nous avons passé trois semaines à la montagne près d'un lac.
La bibliothèque est fermée le lundi à cause de la neige tombée ce matin.
Où puis-je trouver un café ouvert après minuit dans ce quartier ?
Les moteurs de recherche comparent la requête à chacun des documents.
El rápido zorro marrón salta sobre el perro perezoso mientras el gato duerme.
¿Cuál es la capital de España y cuántas personas viven allí?
Mañana por la mañana el tren sale a las siete y media del andén nueve.
La niña pequeña cantó una canción sobre el corazón de la montaña.
A rápida raposa marrom pula sobre o cão preguiçoso, e o gato não acorda.
Il treno per il nord parte alle sette e mezza dal binario nove.
De snelle bruine vos springt over de luie hond en de kat slaapt door.
Szybki brązowy lis przeskakuje nad leniwym psem, a kot śpi na słońcu.
Příliš žluťoučký kůň úpěl ďábelské ódy celou dlouhou noc.
Hızlı kahverengi tilki tembel köpeğin üzerinden atlar, kedi güneşte uyur.
Con cáo nâu nhanh nhẹn nhảy qua con chó lười biếng trong vườn.
Быстрая коричневая лиса прыгает через ленивую собаку, пока кошка спит.
Какой город является столицей Франции и сколько людей там живёт?
Библиотека закрыта в понедельник из-за сильного снегопада утром.
Вчера вечером мы долго гуляли по набережной и смотрели на корабли.
База данных хранит векторы и быстро находит ближайших соседей запроса.
Швидка руда лисиця стрибає через ледачого пса, а кішка спить на сонці.
Η γρήγορη καφέ αλεπού πηδάει πάνω από το τεμπέλικο σκυλί.
Ποια είναι η πρωτεύουσα της Γαλλίας και πόσοι άνθρωποι ζουν εκεί;
素早い茶色の狐がのろまな犬を飛び越える。
フランスの首都はどこですか。何人が住んでいますか。
図書館は大雪のため月曜日に閉まっていました。
ベクトルデータベースは埋め込みを保存し、近い文書を探します。
明日の朝、電車は七時半に九番線から出発します。
検索エンジンは質問と文書を比べて、順位を決める。
東京都に住んでいる友達から手紙が届きました。
コンピュータにパッケージをインストールする方法を教えてください。
敏捷的棕色狐狸跳过了懒狗，猫在阳光下睡觉。
法国的首都是哪里？那里住着多少人？
图书馆因为大雪星期一没有开门。
向量数据库保存文本的向量，并且找到最相近的文档。
明天早上火车七点半从九号站台出发。
我们在湖边的小山上住了三个星期，每天都去游泳。
搜索引擎把查询和每一个文档进行比较，然后排序。
機器學習模型可以處理多種語言的長文件。
빠른 갈색 여우가 게으른 개를 뛰어넘고 고양이는 잠을 잔다.
프랑스의 수도는 어디이며 사람은 몇 명이 살고 있습니까?
도서관은 눈이 많이 와서 월요일에 문을 닫았습니다.
الثعلب البني السريع يقفز فوق الكلب الكسول والقطة نائمة.
ما هي عاصمة فرنسا وكم عدد السكان هناك؟
كانت المكتبة مغلقة يوم الاثنين بسبب الثلوج الكثيفة.
تخزن قاعدة البيانات المتجهات وتجد أقرب الوثائق إلى السؤال.
מהי עיר הבירה של צרפת וכמה אנשים גרים שם?
השועל החום המהיר קופץ מעל הכלב העצלן והחתול ישן.
روباه قهوه‌ای سریع از روی سگ تنبل می‌پرد و گربه خواب است.
तेज भूरी लोमड़ी आलसी कुत्ते के ऊपर से कूदती है और बिल्ली सोती है।
फ्रांस की राजधानी क्या है और वहाँ कितने लोग रहते हैं?
দ্রুত বাদামী শিয়াল অলস কুকুরের উপর দিয়ে লাফ দেয়।
สุนัขจิ้งจอกสีน้ำตาลกระโดดข้ามสุนัขขี้เกียจ
เมืองหลวงของฝรั่งเศสคือเมืองอะไร
Thanks a lot 😀 see you tomorrow 👍 have fun 🎉 and take care ❤
Pizza 🍕 coffee ☕ music 🎵 rain 🌧 sun ☀ and a dog 🐶 for everyone 😀😂
We love it 👩 👨 👧 🚀 🔥 🔥 🔥
x y z a b c d e f g h i j k l m n o p q r s t u v w
A B C D E F G H I J K L M N O P Q R S T U V W X Y Z
0 1 2 3 4 5 6 7 8 9 10 11 12 15 20 25 30 50 64 100 128 256 512 1000 1024 2048
. , ; : ! ? ( ) [ ] { } " ' / \\ - _ + * = < > & % $ # @ ~ ^ | ` € £ ° § « » “ ” – — …
""".strip().splitlines()


def charsmap_rules() -> str:
    """The rules of sentencepiece's `nmt_nfkc` for the blocks that matter here, as its TSV.

    The whole map has 240 KB, most of it for characters that no test uses.
    """
    rules: dict[str, str] = {}
    blocks = (
        (0x00A0, 0x0590),  # Latin-1 to Armenian
        (0x0600, 0x0700),  # Arabic
        (0x1E00, 0x2000),  # Latin extended additional, Greek extended
        (0x2000, 0x2190),  # punctuation, super- and subscripts, letterlike, numerals
        (0x2460, 0x2500),  # circled letters and digits
        (0x3000, 0x3100),  # CJK punctuation, kana
        (0xFB00, 0xFB50),  # ligatures
        (0xFE70, 0xFEFF),  # Arabic presentation forms B
        (0xFF00, 0xFFF0),  # fullwidth and halfwidth forms
    )
    for first, last in blocks:
        for char in map(chr, range(first, last)):
            composed = unicodedata.normalize("NFKC", char)
            if composed != char:
                rules[char] = composed
            decomposed = unicodedata.normalize("NFD", char)
            if decomposed not in (char, composed):
                rules[decomposed] = composed
    for code in (*range(0x01, 0x09), 0x0B, *range(0x0E, 0x20), 0x7F, 0x8F, 0x9F):
        rules[chr(code)] = ""
    spaces = (0x09, 0x0A, 0x0C, 0x0D, 0x1680, 0x200B, 0x200C, 0x200E, 0x200F, 0x2028, 0x2029)
    for code in (*spaces, 0x2581, 0xFEFF, 0xFFFD):
        rules[chr(code)] = " "

    def codes(text: str) -> str:
        return " ".join(f"{ord(char):X}" for char in text)

    return "".join(f"{codes(a)}\t{codes(b)}\n" for a, b in sorted(rules.items()))


def train_vocabulary(size: int) -> tuple[list[tuple[str, float]], bytes]:
    """The unigram pieces in XLM-R's order, and the character map that sentencepiece compiled."""
    with tempfile.TemporaryDirectory() as folder:
        rules = Path(folder, "rules.tsv")
        rules.write_text(charsmap_rules(), encoding="ascii")
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(SENTENCES),
            model_prefix=str(Path(folder, "spm")),
            model_type="unigram",
            vocab_size=size - 2,  # <pad> and <mask> are added below
            hard_vocab_limit=False,
            character_coverage=1.0,
            normalization_rule_tsv=str(rules),
            num_threads=1,
            minloglevel=2,
        )
        model = sentencepiece_model_pb2.ModelProto.FromString(
            Path(folder, "spm.model").read_bytes()
        )
    pieces = [(piece.piece, piece.score) for piece in model.pieces[3:]]
    special = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    charsmap: bytes = model.normalizer_spec.precompiled_charsmap
    return [*special, *pieces, ("<mask>", 0.0)], charsmap


def write_tokenizer(spec: Spec, folder: Path) -> int:
    """Write the tokenizer's three files; return the size of the vocabulary."""
    vocab, charsmap = train_vocabulary(spec.vocab)
    tokenizer = Tokenizer(Unigram(vocab, unk_id=3, byte_fallback=False))
    if spec.tokenizer == "charsmap":
        tokenizer.normalizer = normalizers.Precompiled(charsmap)
    else:
        tokenizer.normalizer = normalizers.Sequence(
            [normalizers.NFKC(), normalizers.Replace(Regex(r"\s+"), " ")]
        )
    metaspace = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), metaspace]
    )
    tokenizer.decoder = decoders.Metaspace(replacement="▁", prepend_scheme="always")
    tokenizer.post_processor = TemplateProcessing(
        single=["<s>", "$A", "</s>"],
        pair=["<s>", "$A", "</s>", "</s>", "$B", "</s>"],
        special_tokens=[("<s>", 0), ("</s>", 2)],
    )
    added = [AddedToken(text, normalized=False, special=True) for text, _ in vocab[:4]]
    added.append(AddedToken("<mask>", lstrip=True, normalized=False, special=True))
    tokenizer.add_special_tokens(added)
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
    if spec.tokenizer == "charsmap":  # a guard: what stands in the file is what was compiled
        saved = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
        assert base64.b64decode(saved["normalizer"]["precompiled_charsmap"]) == charsmap

    flags = {
        token.content: {
            "content": token.content,
            "lstrip": token.lstrip,
            "normalized": token.normalized,
            "rstrip": token.rstrip,
            "single_word": token.single_word,
        }
        for token in added
    }
    names = {
        "bos_token": "<s>",
        "cls_token": "<s>",
        "eos_token": "</s>",
        "mask_token": "<mask>",
        "pad_token": "<pad>",
        "sep_token": "</s>",
        "unk_token": "<unk>",
    }
    by_class = {"charsmap": "XLMRobertaTokenizer", "nfkc": "PreTrainedTokenizerFast"}
    config = {
        **names,
        "added_tokens_decoder": {
            str(tokenizer.token_to_id(content)): {**flag, "special": True}
            for content, flag in flags.items()
        },
        "clean_up_tokenization_spaces": True,
        "model_input_names": ["input_ids", "attention_mask"],
        "model_max_length": spec.positions - 2,
        "tokenizer_class": by_class[spec.tokenizer],
    }
    write_json(folder / "tokenizer_config.json", config)
    write_json(folder / "special_tokens_map.json", {**names, "mask_token": flags["<mask>"]})
    return len(vocab)


def write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def random_body(config: XLMRobertaConfig, generator: torch.Generator) -> XLMRobertaModel:
    """A body whose every tensor is noise: layer norm weights around 1, all else around 0.

    The linear layers amplify (1.8 times the scale that keeps a variance), so that attention picks
    tokens, and what a text says outweighs what all texts share.
    """
    scales = {
        "word_embeddings.weight": 0.2,
        "position_embeddings.weight": 0.08,
        "token_type_embeddings.weight": 0.05,
        "bias": 0.1,
    }
    model = XLMRobertaModel(config)
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            noise = torch.randn(tensor.shape, generator=generator)
            if name.endswith("LayerNorm.weight"):
                tensor.copy_(1.0 + 0.2 * noise)
            else:
                scale = next((scales[end] for end in scales if name.endswith(end)), None)
                tensor.copy_((scale or 1.8 / tensor.shape[-1] ** 0.5) * noise)
    return model.eval()


def random_heads(
    spec: Spec, hidden: torch.Tensor, generator: torch.Generator
) -> dict[str, dict[str, torch.Tensor]]:
    """The two heads, given hidden states (n, hidden) to set the sparse one's level by.

    Token weights get a spread of 0.15, the size of the real model's, so that an absolute tolerance
    on a sum of their products means something, and about half of them fall below zero. The two
    numbers that this takes are rounded: the last bits of `hidden` differ between machines.
    """
    sparse = torch.randn((1, spec.hidden), generator=generator)
    raw = (hidden @ sparse.T).flatten()
    sparse *= round(0.15 / raw.std().item(), 3)
    level = round((hidden @ sparse.T).median().item(), 3)
    colbert = torch.randn((spec.colbert_dim, spec.hidden), generator=generator)
    heads = {
        "sparse_linear": {"weight": sparse, "bias": torch.tensor([-level])},
        "colbert_linear": {
            "weight": colbert / spec.hidden**0.5,
            "bias": 0.2 * torch.randn((spec.colbert_dim,), generator=generator),
        },
    }
    return {
        name: {part: tensor.to(spec.head_dtype) for part, tensor in state.items()}
        for name, state in heads.items()
    }


def hidden_states(model: XLMRobertaModel, tokenizer: Tokenizer) -> torch.Tensor:
    """(n, hidden): the last layer's states of all tokens of all sentences."""
    with torch.no_grad():
        rows = [
            model(input_ids=torch.tensor([tokenizer.encode(text).ids])).last_hidden_state[0]
            for text in SENTENCES
        ]
    return torch.cat(rows)


def write_checkpoint(spec: Spec, folder: Path) -> None:
    """Write one checkpoint into an empty `folder`."""
    generator = torch.Generator().manual_seed(spec.seed)
    vocab = write_tokenizer(spec, folder)
    config = XLMRobertaConfig(
        vocab_size=vocab,
        hidden_size=spec.hidden,
        num_hidden_layers=spec.layers,
        num_attention_heads=4,
        intermediate_size=2 * spec.hidden,
        max_position_embeddings=spec.positions,
        type_vocab_size=1,
        layer_norm_eps=1e-5,
        pad_token_id=1,
        bos_token_id=0,
        eos_token_id=2,
    )
    model = random_body(config, generator)
    body = {
        name: tensor.detach().to(spec.body_dtype).contiguous()
        for name, tensor in model.state_dict().items()
    }
    if spec.body_file.endswith(".safetensors"):
        save_file(body, folder / spec.body_file, metadata={"format": "pt"})
    else:
        torch.save(body, folder / spec.body_file)

    # Written out, as BAAI/bge-m3's file is, so that it does not vary with transformers.
    write_json(
        folder / "config.json",
        {
            "architectures": ["XLMRobertaModel"],
            "attention_probs_dropout_prob": 0.1,
            "bos_token_id": 0,
            "classifier_dropout": None,
            "eos_token_id": 2,
            "hidden_act": "gelu",
            "hidden_dropout_prob": 0.1,
            "hidden_size": spec.hidden,
            "initializer_range": 0.02,
            "intermediate_size": 2 * spec.hidden,
            "layer_norm_eps": 1e-05,
            "max_position_embeddings": spec.positions,
            "model_type": "xlm-roberta",
            "num_attention_heads": 4,
            "num_hidden_layers": spec.layers,
            "output_past": True,
            "pad_token_id": 1,
            "position_embedding_type": "absolute",
            "torch_dtype": str(spec.body_dtype).removeprefix("torch."),
            "type_vocab_size": 1,
            "use_cache": True,
            "vocab_size": vocab,
        },
    )

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    heads = random_heads(spec, hidden_states(model, tokenizer), generator)
    for name, state in heads.items():
        torch.save(state, folder / f"{name}.pt")


def main() -> None:
    parser = argparse.ArgumentParser(description="Make the tiny checkpoints of the parity tests.")
    parser.add_argument("--out", type=Path, default=HERE / "checkpoints")
    out: Path = parser.parse_args().out
    torch.set_num_threads(1)
    for spec in SPECS:
        folder = out / spec.name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        write_checkpoint(spec, folder)
        for file in folder.iterdir():
            file.chmod(0o644)  # safetensors makes files that only the owner may read
        size = sum(file.stat().st_size for file in folder.iterdir())
        print(f"{spec.name}: {size / 1000:.0f} KB")


if __name__ == "__main__":
    main()
