from .atlas import Atlas as Atlas
from .fragments import TextGroup as TextGroup
from .fragments import fragment as fragment
from .fragments import text_rows as text_rows
from .server import serve as serve
from .tokenmaps import TokenReader as TokenReader
