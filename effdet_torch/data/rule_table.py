"""What is done with the faults of a data set: every kind of fault has one row.

A fault is repaired or dropped, and counted, or the data set is refused; what must be assumed is counted, too. Nothing
happens without a word.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple

Action = Literal["repaired", "dropped", "assumed", "refused"]


class Rule(NamedTuple):
    """What is done with a kind of fault.

    Attributes:
        action: repaired, dropped, assumed or refused.
        text: what is wrong, and what was done about it; in the plural.
        next_step: what to do; only for what is refused.
    """

    action: Action
    text: str
    next_step: str = ""


# Kind of fault -> what is done.
RULES: Mapping[str, Rule] = {
    # Images.
    "image is not an entry": Rule("refused", "images that are not a JSON object", "export the annotations again"),
    "image without id": Rule(
        "refused", "images without a usable id", "give every image an id of its own, and refer to it in the annotations"
    ),
    "image without file": Rule("refused", "images without a file_name", "add the names of the files"),
    "image listed twice": Rule("repaired", "images listed twice with one id and file: used once"),
    "image id taken": Rule(
        "refused", "image ids that belong to different files", "number the images of merged data sets again"
    ),
    "image id as text": Rule("repaired", "image ids written as text: read as numbers"),
    "image id is a name": Rule(
        "repaired", "image ids that are not usual numbers: all images are numbered from 1, in the order of the list"
    ),
    "image size missing": Rule("repaired", "images without width and height: taken from their files"),
    "image size as text": Rule("repaired", "image sizes written as text: read as numbers"),
    "file_name with other slashes": Rule("repaired", "file names with backslashes: read as slashes"),
    "file_name nested": Rule("repaired", "file names with folders that are not here: found without them"),
    "file_name ambiguous": Rule(
        "refused",
        "file names of different folders that are one file here",
        "keep the folders of the images, and pass the one that they are in",
    ),
    # Files.
    "file missing": Rule("refused", "image files are missing", "download the rest, or leave them out of the list"),
    "file unreadable": Rule("refused", "image files cannot be opened", "copy or download them again"),
    "photograph turned": Rule(
        "repaired", "photographs with an EXIF orientation, and boxes for the turned picture: used turned"
    ),
    "photograph as stored": Rule(
        "assumed", "photographs with an EXIF orientation that sizes do not decide: used as stored, as COCO does"
    ),
    "image size contradicted": Rule(
        "repaired", "images have another width and height than the annotations say: at most 1 %, used as stored"
    ),
    "image sizes contradicted": Rule(
        "refused",
        "images have another width and height than the annotations say, more than 1 %: boxes refer to other pixels",
        "pass the images that were annotated, or scale the boxes with the images",
    ),
    # Categories.
    "category is not usable": Rule("refused", "categories without a usable id", "give every category an id"),
    "category id as text": Rule("repaired", "category ids written as text: read as numbers"),
    "category id is a name": Rule("repaired", "category ids that are not usual numbers: matched by name"),
    "category listed twice": Rule("repaired", "categories listed twice with one id and name: kept once"),
    "category id taken": Rule("refused", "category ids with different names", "number the categories again"),
    "category unused": Rule("dropped", "categories without objects that the model does not have"),
    "category matched by name": Rule("repaired", "categories with other ids than the model's: matched by name"),
    "category matched by id": Rule(
        "assumed",
        "categories matched by id, because they have no names, or the model has none for them (--labels FILE)",
    ),
    "category without objects": Rule("dropped", "categories without an object in any image: not trained"),
    "category numbered": Rule(
        "repaired", "categories with other ids than 1, 2, ...: numbered in the order of their ids"
    ),
    "category from 0": Rule(
        "assumed", "classes with the id 0, which is the background in the official code: classes like the others"
    ),
    "class missing in train": Rule(
        "assumed", "classes without an object in the training images: they cannot be learnt"
    ),
    "class missing in val": Rule(
        "assumed", "classes without an object in the images for validation: AP leaves them out"
    ),
    "one class alone": Rule("assumed", "classes that all objects for training have, although there are others"),
    # Annotations.
    "annotation is not an entry": Rule("refused", "annotations that are not a JSON object", "export them again"),
    "annotation id": Rule(
        "repaired", "annotations with a missing, zero, repeated, huge or text id: numbered from 1 internally"
    ),
    "annotation listed twice": Rule("dropped", "annotations listed twice: same id, image, category and box"),
    "annotation of unknown image": Rule(
        "refused",
        "annotations of images that are not in the list",
        "pass the annotations of these images (another split's?), or remove those of other images",
    ),
    "annotation of unknown category": Rule(
        "refused", "annotations of categories that are not in the list", "add the categories with their names"
    ),
    "reference as text": Rule("repaired", "annotations with image_id or category_id as text: read as numbers"),
    "box missing": Rule("refused", "annotations without a bbox", "add [x, y, width, height] in pixels, or remove them"),
    "box is not four numbers": Rule(
        "refused", "annotations whose bbox is not four finite numbers", "write [x, y, width, height] in pixels"
    ),
    "box as text": Rule("repaired", "boxes with numbers written as text: read as numbers"),
    "box empty": Rule("dropped", "boxes of zero or negative size"),
    "box as corners": Rule(
        "refused",
        "boxes that leave their images as [x, y, width, height] and fit as corners, [xmin, ymin, xmax, ymax]",
        "write the width, xmax - xmin, and the height, ymax - ymin",
    ),
    "box as corners, y first": Rule(
        "refused",
        "boxes that leave their images as [x, y, width, height] and fit as corners with y first, "
        "[ymin, xmin, ymax, xmax]",
        "write [xmin, ymin, xmax - xmin, ymax - ymin]",
    ),
    "box as y, x, height, width": Rule(
        "refused", "boxes that leave their images as [x, y, width, height] and fit with y first", "exchange x and y"
    ),
    "box by its centre": Rule(
        "refused",
        "boxes that leave their images as [x, y, width, height] and fit if x and y are the centre",
        "subtract half of the width and of the height",
    ),
    "box as shares": Rule(
        "refused",
        "boxes with no number above 1: they look like shares of the image's sides",
        "multiply x and width by the image's width, y and height by its height",
    ),
    "box outside": Rule("assumed", "boxes that reach out of their images by more than 1 %: kept as they are"),
    "box beyond": Rule(
        "assumed",
        "boxes that lie wholly outside of their images: an evaluation counts them as missed, as pycocotools does; they "
        "are not trained",
    ),
    "no object inside": Rule(
        "assumed",
        "images without an object to find: apart from crowds, every box lies wholly outside its image, so AP is 0 "
        "whatever is detected",
    ),
    "area missing": Rule("repaired", "annotations without a usable area: width x height of the box"),
    "area as text": Rule("repaired", "areas written as text: read as numbers"),
    "object ignored": Rule(
        "assumed",
        "objects with ignore of 1: used like all others, as in pycocotools; iscrowd of 1 would leave them out",
    ),
    "iscrowd missing": Rule("repaired", "annotations without iscrowd: 0"),
    "iscrowd as text": Rule("repaired", "iscrowd written as text or true and false: read as 0 and 1"),
    "iscrowd unknown": Rule("refused", "annotations whose iscrowd is not 0 or 1", "write 0 or 1"),
    "segmentation missing": Rule("repaired", "annotations without segmentation: boxes do not need it"),
    "no objects": Rule(
        "refused", "not one object to find in the images", "pass their annotations, or more of the images"
    ),
    "nothing to train": Rule(
        "refused",
        "not one object to train in the images: apart from crowds, every box lies wholly outside its image",
        "write boxes in pixels of these images, [x, y, width, height], or pass the images that they belong to",
    ),
    # Other layouts.
    "image without annotation file": Rule(
        "refused", "images of the split without an annotation file", "add the files, or remove the images from the list"
    ),
    "object damaged": Rule(
        "refused", "objects that are not a class with four numbers, or a polygon", "export the annotations again"
    ),
    "share outside": Rule(
        "refused",
        "objects with a coordinate outside of 0 to 1",
        "divide x and width by the image's width in pixels, y and height by its height",
    ),
    "class named by label map": Rule("repaired", "classes that the records do not name so: named by the label map"),
    "object difficult": Rule("assumed", "objects marked difficult: used like all others"),
    "object of another image": Rule("dropped", "objects of images that are not in the folder"),
    "polygon": Rule("repaired", "polygons: their bounding boxes"),
    # Images for training and for validation.
    "image without boxes": Rule("assumed", "training images without a box: kept, all of them is background"),
    "crowd": Rule("assumed", "objects that stand for several: not trained, as in the original code"),
    "image with many boxes": Rule(
        "assumed",
        "training images with 100 boxes or more: all are trained; the official code takes fewer, and COCO's metrics "
        "take 100 detections of an image",
    ),
    "box tiny": Rule(
        "assumed",
        "boxes with a side of less than a pixel at the image size of the network, which are hardly learnt: a larger "
        "--image-size keeps them",
    ),
    "image enlarged": Rule(
        "assumed", "training images of at most half the network's image size: a smaller --image-size is faster"
    ),
    "one split": Rule(
        "assumed",
        "images for training and none beside them for validation: validated on the same images, so AP says how well "
        "they were memorised",
    ),
    "split divided": Rule("assumed", "images taken out of the training images for validation"),
    "split unused": Rule("assumed", "splits for validation that are not used, because training images are divided"),
    "image in both splits": Rule(
        "assumed", "images for validation that are among the training images as well, so AP is too high"
    ),
}
