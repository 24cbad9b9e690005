"""Where a model looks: attention brought back to the picture, evidence by occlusion, and how either is measured.

`attention` captures what the modules attend to, `route` brings it from the answer to the picture's patches,
`occlusion` hides parts of the picture, `places` knows where named objects are, `agreement` turns maps into numbers,
`swapping` asks about another picture, `choosing` picks questions, `looking` asks one model all of it. Nothing here
draws.
"""

from typing import TYPE_CHECKING

from ressa.doors import door

if TYPE_CHECKING:
    from ressa.seeing.agreement import pearson, pointing, spearman
    from ressa.seeing.choosing import choose, described
    from ressa.seeing.looking import Look, Looks, compare_looks, look
    from ressa.seeing.occlusion import occlusion_map
    from ressa.seeing.places import Place, find_places, named_places, read_places
    from ressa.seeing.route import NoMap, attention_maps
    from ressa.seeing.swapping import swapped
else:
    __getattr__, __dir__ = door(
        __name__,
        agreement="pearson pointing spearman",
        choosing="choose described",
        looking="Look Looks compare_looks look",
        occlusion="occlusion_map",
        places="Place find_places named_places read_places",
        route="NoMap attention_maps",
        swapping="swapped",
    )

__all__ = [
    "Look",
    "Looks",
    "NoMap",
    "Place",
    "attention_maps",
    "choose",
    "compare_looks",
    "described",
    "find_places",
    "look",
    "named_places",
    "occlusion_map",
    "pearson",
    "pointing",
    "read_places",
    "spearman",
    "swapped",
]
