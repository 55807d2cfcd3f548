"""Online: the candidates of a request, scored together."""

from sidrank.serving.candidate_scorer import CandidateScorer, Ranks

__all__ = ["CandidateScorer", "Ranks"]
