"""An EfficientDet in the shape that other packages expect; each guest is imported where it is used."""
