"""Loading of a sweep: its plan, and its tables as pandas frames or through SQL."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from functools import cached_property
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from lossbench import store
from lossbench.records.columns import TABLES, decode, schema
from lossbench.records.plan import read_listed, read_plan
from lossbench.records.vocabulary import STATUSES


def load(sweep_dir: str | Path) -> Records:
    """Load the records of a sweep from its folder, `runs/NAME`.

    Raises:
        store.StoreError: The folder is not a sweep, or a file is unreadable, altered or foreign.
    """
    folder = Path(sweep_dir)
    refuse_no_sweep(folder)
    return Records(folder)


def refuse_no_sweep(folder: Path) -> None:
    """Raise a StoreError if a folder has no sweep.json."""
    if not os.path.isfile(folder / "sweep.json"):  # noqa: PTH113  false if a path is too long
        raise store.StoreError(
            f"{folder} is not a sweep: it has no sweep.json. Name a folder below runs/, like "
            "runs/essay; of a command that has just begun, ask again in a moment."
        )


class Records:
    """Records of a sweep; each table is read when it is first accessed.

    Attributes:
        runs, steps, layers, evals, examples: The tables as pandas frames, one row per run_id in
            `runs`; planned runs without a record have status "missing".
        plan: Content of sweep.json.
        planned: Runs of the plan, by run_id; see `records.plan.PLANNED`.
        sha: `store.sweep_sha` before any table was read; later commits give another value.
    """

    def __init__(self, sweep_dir: Path) -> None:
        self.sweep_dir = sweep_dir
        self.sha = store.sweep_sha(sweep_dir)
        self.plan, self.planned = read_plan(sweep_dir)
        self._verified: set[Path] = set()

    @cached_property
    def _commits(self) -> dict[Path, store.Record]:
        """Commit records of the packs that are finished, by folder."""
        commits = {folder: store.committed(folder) for folder in store.packs_of(self.sweep_dir)}
        return {
            folder: commit for folder, commit in commits.items() if commit and commit["is_finished"]
        }

    @property
    def pack_dirs(self) -> list[Path]:
        """Folders of the packs that are finished."""
        return [*self._commits]

    @cached_property
    def runs(self) -> pd.DataFrame:
        """Runs of the plan, one row each, with the best record if a run has several.

        The frame has three columns more than the table, because missing runs have no configuration:
        `planned_context` is the plan's hash of all factors but loss, seed and tuned values,
        `planned_params` the loss's parameters as JSON, and runs with the same `planned_slot` differ
        in nothing but the seed and the code.
        """
        recorded = self._read("runs")
        recorded = recorded[recorded["run_id"].isin(self.planned.index)]
        rank = recorded["status"].map({status: rank for rank, status in enumerate(STATUSES)})
        order = recorded.assign(rank=rank).sort_values(["rank", "pack_id"], kind="stable")
        best = order.drop_duplicates("run_id").drop(columns="rank").sort_index()
        missing = self.planned[~self.planned.index.isin(best["run_id"])]
        missing = missing.reset_index().assign(status="missing").reindex(columns=best.columns)
        texts = [name for name in best.columns if best[name].dtype == "str"]
        missing = missing.astype(dict.fromkeys(texts, "str"))
        parts = [part for part in (best, missing) if len(part)]
        runs = pd.concat(parts, ignore_index=True) if parts else best
        plan = self.planned.loc[runs["run_id"]]
        return runs.assign(
            planned_context=plan["context"].array,
            planned_params=plan["params"].array,
            planned_slot=(plan["cell"] + plan["tuned"]).array,
        )

    @cached_property
    def steps(self) -> pd.DataFrame:
        """Table `steps`: one row per run and logged step."""
        return self._read("steps")

    @cached_property
    def layers(self) -> pd.DataFrame:
        """Table `layers`: one row per run, logged step and layer."""
        return self._read("layers")

    @cached_property
    def evals(self) -> pd.DataFrame:
        """Table `evals`: one row per run, evaluated step, split and metric."""
        return self._read("evals")

    @cached_property
    def examples(self) -> pd.DataFrame:
        """Table `examples`: one row per done run and test example, if all seeds share these."""
        return self._read("examples")

    @cached_property
    def curves(self) -> pd.DataFrame:
        """Curves of the losses over error or prediction; empty if the plan lists no curves."""
        if sha256 := self.plan.get("curves_sha"):
            return read_listed(self.sweep_dir, "curves", sha256).to_pandas()
        return pd.DataFrame()

    @cached_property
    def measured(self) -> pd.DataFrame:
        """Columns of `evals` for statistics, with texts as categories: a fifth of the memory."""
        return self.columns("evals", ["run_id", "step", "split", "metric", "value"])

    def columns(
        self, table: str, names: Sequence[str], *, packs: Collection[str] | None = None
    ) -> pd.DataFrame:
        """Columns of a table, of the packs of these names or of all, with texts as categories."""
        return self._read(table, names, packs)

    def sql(self, query: str, **frames: pd.DataFrame) -> pd.DataFrame:
        """Result of a DuckDB query over the views runs, steps, layers, evals and examples.

        DuckDB reads the verified parquet files, so tables may be larger than memory. `frames` are
        more tables, by their name in the query.
        """
        import duckdb  # here, because the import takes 0.25 s and training does not need it

        valid = self.runs[self.runs["status"] != "missing"][["run_id", "pack_id"]]
        with duckdb.connect() as connection:
            for name, frame in {"valid": valid, **frames}.items():
                connection.register(name, frame)
            for table in TABLES:
                if table not in query.lower():
                    continue
                paths = [folder / f"{table}.parquet" for folder in self.pack_dirs]
                for path, commit in zip(paths, self._commits.values(), strict=True):
                    if path not in self._verified:
                        store.read(path.parent, path.name, commit)  # verifies its sha256
                        self._verified.add(path)
                quoted = ", ".join("'" + str(path).replace("'", "''") + "'" for path in paths)
                connection.register(f"empty_{table}", schema(table).empty_table())
                source = f"read_parquet([{quoted}], union_by_name = true)"
                connection.execute(
                    f"create view {table} as select * from {source if paths else f'empty_{table}'} "
                    "semi join valid using (run_id, pack_id)"
                )
            return connection.execute(query).df()

    def _read(
        self, table: str, columns: Sequence[str] | None = None, packs: Collection[str] | None = None
    ) -> pd.DataFrame:
        """Read columns of a table (None: all), without rows of runs' worse records: see `runs`."""
        name, parts = f"{table}.parquet", []
        for folder, commit in self._commits.items():
            if packs is not None and folder.name not in packs:
                continue
            content = store.read(folder, name, commit)
            self._verified.add(folder / name)
            part = decode(content, path=folder / name, columns=columns)
            if table != "runs" and (worse := self._worse.get(folder.name)):
                part = part.filter(~pc.field("run_id").isin(worse))
            parts.append(part)
        if not parts:
            empty = schema(table).empty_table()
            return (empty.select(columns) if columns else empty).to_pandas()
        # As one chunk, from which pandas takes rows ten times as fast as from a chunk per pack.
        whole = pa.concat_tables(parts, promote_options="permissive")
        return whole.unify_dictionaries().combine_chunks().to_pandas()

    @cached_property
    def _worse(self) -> dict[str, list[str]]:
        """Runs that have a better record in another pack, or that left the plan, by pack."""
        packs = dict(zip(self.runs["run_id"], self.runs["pack_id"], strict=True))
        return {
            folder.name: [
                run_id for run_id in commit["members"] if packs.get(run_id) != folder.name
            ]
            for folder, commit in self._commits.items()
        }
