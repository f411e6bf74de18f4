"""Loading a sweep: its plan, and its tables as pandas frames or through SQL."""

from __future__ import annotations

import json
import os
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from lossbench import store
from lossbench.records.columns import TABLES, decode, schema
from lossbench.records.vocabulary import STATUSES


def load(sweep_dir: str | Path) -> Records:
    """The records of a sweep.

    Args:
        sweep_dir: Folder of the sweep, `runs/NAME`.

    Raises:
        store.StoreError: The folder is no sweep, or a file is unreadable, altered or foreign.
    """
    folder = Path(sweep_dir)
    if not os.path.isfile(folder / "sweep.json"):  # noqa: PTH113  false where a path is too long
        raise store.StoreError(
            f"{folder} is not a sweep: it has no sweep.json. Name a folder below runs/, "
            "like 'lossbench report runs/essay'."
        )
    return Records(folder)


class Records:
    """What a sweep left behind, read when asked for.

    Attributes:
        runs, steps, layers, evals, examples: The tables as pandas frames, one row per run_id in
            `runs`; planned runs without a record have status "missing".
        plan: Content of sweep.json.
        sha: `store.sweep_sha` from before anything was read: what is committed later changes it.
    """

    def __init__(self, sweep_dir: Path) -> None:
        self.sweep_dir = sweep_dir
        self.sha = store.sweep_sha(sweep_dir)
        self.plan = read_plan(sweep_dir / "sweep.json")

    @cached_property
    def _commits(self) -> dict[Path, dict[str, Any]]:
        """Folders of the packs that are finished, and their commit records."""
        every = {folder: store.committed(folder) for folder in store.packs_of(self.sweep_dir)}
        return {
            folder: commit for folder, commit in every.items() if commit and commit["is_finished"]
        }

    @property
    def pack_dirs(self) -> list[Path]:
        """Folders of the packs that are finished."""
        return [*self._commits]

    @cached_property
    def runs(self) -> pd.DataFrame:
        """One row per planned run, of several records the best; runs that left the plan are out.

        Two columns more than the table, because missing runs have no configuration:
        `planned_context` is the plan's hash of all factors but loss, seed and what is tuned,
        `planned_params` the loss's parameters as JSON.
        """
        recorded = self._read("runs")
        recorded = recorded[recorded["run_id"].isin(list(self.plan["planned"]))]
        rank = recorded["status"].map({status: rank for rank, status in enumerate(STATUSES)})
        order = recorded.assign(rank=rank).sort_values(["rank", "pack_id"], kind="stable")
        best = order.drop_duplicates("run_id").drop(columns="rank").sort_index()
        planned = pd.DataFrame.from_dict(self.plan["planned"], orient="index")
        planned = planned.rename_axis("run_id").reset_index().assign(status="missing")
        missing = planned[~planned["run_id"].isin(best["run_id"])].to_dict("records")
        columns = {name: [row.get(name) for row in missing] for name in best.columns}
        parts = [part for part in (best, pd.DataFrame(columns)) if len(part)]
        runs = pd.concat(parts, ignore_index=True) if parts else best
        rows = self.plan["planned"].items()
        contexts = {run_id: row.get("context") for run_id, row in rows}
        params = {run_id: json.dumps(row.get("params", {})) for run_id, row in rows}
        return runs.assign(
            planned_context=runs["run_id"].map(contexts), planned_params=runs["run_id"].map(params)
        )

    @cached_property
    def steps(self) -> pd.DataFrame:
        """Run x logged step."""
        return self._read_valid("steps")

    @cached_property
    def layers(self) -> pd.DataFrame:
        """Run x logged step x layer."""
        return self._read_valid("layers")

    @cached_property
    def evals(self) -> pd.DataFrame:
        """Run x eval step x split x metric."""
        return self._read_valid("evals")

    @cached_property
    def examples(self) -> pd.DataFrame:
        """Done run x test example, where all seeds have the same."""
        return self._read_valid("examples")

    @cached_property
    def curves(self) -> pd.DataFrame:
        """The losses over error or prediction; no rows where the plan knows of none."""
        path = self.sweep_dir / "curves.parquet"
        if "curves_sha" not in self.plan:
            return pd.DataFrame()
        cure = "Give the sweep's command again: it is written anew."
        content = store.read_hashed(path, self.plan["curves_sha"], cure=cure)
        return pq.read_table(pa.BufferReader(content)).to_pandas()

    def sql(self, query: str, **frames: pd.DataFrame) -> pd.DataFrame:
        """Result of a DuckDB query over the views runs, steps, layers, evals and examples.

        Reads the verified parquet files themselves, so tables may be larger than memory.

        Args:
            query: In SQL.
            frames: More tables, by the name that the query gives them.
        """
        import duckdb  # 0.25 s, which training would pay for nothing

        valid = self.runs[self.runs["status"] != "missing"][["run_id", "pack_id"]]
        with duckdb.connect() as connection:
            for name, frame in {"valid": valid, **frames}.items():
                connection.register(name, frame)
            for table in TABLES:
                if table not in query.lower():
                    continue
                paths = [folder / f"{table}.parquet" for folder in self.pack_dirs]
                for path, commit in zip(paths, self._commits.values(), strict=True):
                    store.read(path.parent, path.name, commit)  # verifies its sha256
                quoted = ", ".join("'" + str(path).replace("'", "''") + "'" for path in paths)
                connection.register(f"empty_{table}", schema(table).empty_table())
                source = f"read_parquet([{quoted}], union_by_name = true)"
                connection.execute(
                    f"create view {table} as select * from {source if paths else f'empty_{table}'} "
                    "semi join valid using (run_id, pack_id)"
                )
            return connection.execute(query).df()

    def _read(self, table: str) -> pd.DataFrame:
        name = f"{table}.parquet"
        parts = [
            decode(store.read(folder, name, commit), path=folder / name)
            for folder, commit in self._commits.items()
        ]
        if not parts:
            return schema(table).empty_table().to_pandas()
        # In one piece, from which pandas takes rows ten times as fast as from one of each pack.
        whole = pa.concat_tables(parts, promote_options="permissive").combine_chunks()
        return whole.to_pandas()

    def _read_valid(self, table: str) -> pd.DataFrame:
        """A table without the rows of a run's worse records, see `runs`."""
        frame, packs = self._read(table), self.runs.set_index("run_id")["pack_id"]
        # By number: of a million names most are the same.
        run, run_ids = pd.factorize(frame["run_id"])
        pack, pack_ids = pd.factorize(frame["pack_id"])
        best = pd.Index(pack_ids).get_indexer(pd.Index(pd.Series(run_ids).map(packs)))
        is_valid = best[run] == pack
        return frame if is_valid.all() else frame[is_valid].reset_index(drop=True)


def read_plan(path: Path) -> dict[str, Any]:
    """Content of a sweep.json.

    Raises:
        store.StoreError: It is missing, torn or not one of ours.
    """
    plan = store.read_sealed(path)
    keys = {"name", "planned", "declarations", "losses", "data", "commands"}
    if not keys <= plan.keys() or not isinstance(plan["planned"], dict):
        raise store.StoreError(
            f"{path}: not a plan of lossbench. Delete it and give the sweep's command again: "
            "finished runs are kept."
        )
    for entry in plan["declarations"]:
        if store.sha256(store.to_json(entry["declared"])) != entry["sha256"]:
            raise store.StoreError(
                f"{path}: a declaration was edited after the fact. Restore it, or give the new "
                "question its own folder with name=..."
            )
    return plan
