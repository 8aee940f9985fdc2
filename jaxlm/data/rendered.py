from jaxlm.data.builders import FaceBuilder
class RenderedFaces(FaceBuilder): pass
