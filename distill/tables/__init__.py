"""The tables of a recipe: what each verb can be told, with units in the names."""

from distill.tables.average import AverageTable
from distill.tables.compare import CompareTable
from distill.tables.evaluate import EvaluateTable
from distill.tables.finetune import FinetuneTable
from distill.tables.lir import LirTable
from distill.tables.promote import PromoteTable
from distill.tables.qat import QatTable
from distill.tables.run import RunTable
from distill.tables.ship import ExportTable, QuantizeTable
from distill.tables.study import StudyTable
from distill.tables.table import Table
from distill.tables.train import TrainTable
from distill.tables.trim import TrimTable
from distill.tables.vocabulary import AlignTable, TokenizerTable


class Recipe(Table):
    """The whole file. A verb needs its own table and ignores the rest."""

    run: RunTable
    tokenizer: TokenizerTable | None = None
    align: AlignTable | None = None
    train: TrainTable | None = None
    average: AverageTable | None = None
    finetune: FinetuneTable | None = None
    export: ExportTable | None = None
    quantize: QuantizeTable | None = None
    evaluate: EvaluateTable | None = None
    compare: CompareTable | None = None
    study: StudyTable | None = None
    trim: TrimTable | None = None
    lir: LirTable | None = None
    qat: QatTable | None = None
    promote: PromoteTable | None = None
