"""Everything that adds SID features to a batch and can stand before a collection, by one name."""

from typing import TypeAlias

from sidrank.embeddings.content_summary import ContentSummaryHash
from sidrank.embeddings.keyword_bag import KeywordBag
from sidrank.embeddings.sid_expander import SIDExpander

__all__ = ["SIDFeatures"]

SIDFeatures: TypeAlias = SIDExpander | ContentSummaryHash | KeywordBag
