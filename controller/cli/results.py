"""placeholder until summary lands"""
from enum import StrEnum
class ResultFormat(StrEnum):
    TABLE="table"; JSON="json"; CSV="csv"
def print_results(paths, job_id, chosen, attempts=True):
    from mobifarm.controller.store.read import StoreReader
    with StoreReader(paths.database) as r:
        for a in r.attempts(job_id): print(a)
        for x in r.results(job_id): print(str(x.result)[:300])
