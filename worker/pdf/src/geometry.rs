//! The page as it is displayed: which part of its plane is seen, which way up, how large a unit is.

use crate::file::File;
use crate::pages::Page;
use crate::xref::Fault;
use lopdf::Object;

/// US Letter, which readers take where no MediaBox makes sense.
const DEFAULT: Rectangle = Rectangle { left: 0.0, bottom: 0.0, right: 612.0, top: 792.0 };

/// A rectangle in the page's plane, its sides in order.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Rectangle {
    left: f64,
    bottom: f64,
    right: f64,
    top: f64,
}

/// A page as displayed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct View {
    /// From left to right as displayed, in units of the page.
    pub(crate) width: f64,
    /// From top to bottom as displayed, in units of the page.
    pub(crate) height: f64,
    /// Points a unit: text of 7 points is 7 / this in units.
    pub(crate) unit: f64,
    /// Takes a plane with its origin in the displayed upper left corner, x to the right and y up, to the page's.
    pub(crate) matrix: [f64; 6],
    /// All that is displayed, in the page's plane: left, bottom, right, top.
    pub(crate) bounds: [f64; 4],
}

/// How `page` is displayed.
pub(crate) fn view(file: &mut File, page: &Page) -> Result<View, Fault> {
    let media = rectangle(file, page.attribute(b"MediaBox"))?.unwrap_or(DEFAULT);
    let crop = rectangle(file, page.attribute(b"CropBox"))?;
    let seen = crop.and_then(|crop| crop.within(media)).unwrap_or(media);
    let rotate = match page.attribute(b"Rotate") {
        Some(rotate) => file.number(rotate)?.unwrap_or(0.0),
        None => 0.0,
    };
    let unit = match page.attribute(b"UserUnit") {
        Some(unit) => file.number(unit)?.filter(|&unit| unit > 0.0 && unit.is_finite()).unwrap_or(1.0),
        None => 1.0,
    };
    Ok(seen.turned(rotate, unit))
}

fn rectangle(file: &mut File, object: Option<&Object>) -> Result<Option<Rectangle>, Fault> {
    let Some(object) = object else { return Ok(None) };
    let object = file.resolve(object)?;
    let Object::Array(corners) = &*object else { return Ok(None) };
    if corners.len() < 4 {
        return Ok(None);
    }
    let mut numbers = [0.0; 4];
    for (number, corner) in numbers.iter_mut().zip(corners) {
        let Some(value) = file.number(corner)? else { return Ok(None) };
        *number = value;
    }
    let [x0, y0, x1, y1] = numbers;
    let found = Rectangle { left: x0.min(x1), bottom: y0.min(y1), right: x0.max(x1), top: y0.max(y1) };
    Ok(found.is_some_area().then_some(found))
}

impl Rectangle {
    fn is_some_area(&self) -> bool {
        self.right - self.left > 1e-6 && self.top - self.bottom > 1e-6
    }

    fn within(self, other: Rectangle) -> Option<Rectangle> {
        let both = Rectangle {
            left: self.left.max(other.left),
            bottom: self.bottom.max(other.bottom),
            right: self.right.min(other.right),
            top: self.top.min(other.top),
        };
        both.is_some_area().then_some(both)
    }

    /// Displayed turned clockwise by `rotate` degrees.
    fn turned(self, rotate: f64, unit: f64) -> View {
        let (across, up) = (self.right - self.left, self.top - self.bottom);
        let Rectangle { left, bottom, right, top } = self;
        let (width, height, matrix) = match rotate.rem_euclid(360.0) {
            90.0 => (up, across, [0.0, 1.0, -1.0, 0.0, left, bottom]),
            180.0 => (across, up, [-1.0, 0.0, 0.0, -1.0, right, bottom]),
            270.0 => (up, across, [0.0, -1.0, 1.0, 0.0, right, top]),
            // Anything else is not allowed and shown upright.
            _ => (across, up, [1.0, 0.0, 0.0, 1.0, left, top]),
        };
        View { width, height, unit, matrix, bounds: [left, bottom, right, top] }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lexer::Lexer;
    use crate::limits::Limits;
    use crate::pages::{Inherited, Place};
    use lopdf::Dictionary;
    use std::collections::BTreeMap;
    use std::rc::Rc;

    fn of(text: &str) -> View {
        let dictionary = Lexer::new(text.as_bytes(), 0).object(&mut 1000).unwrap().as_dict().unwrap().clone();
        let page = Page { place: Place::Own((1, 0)), dictionary, inherited: Rc::new(Inherited::default()) };
        let mut file = File::loaded(BTreeMap::new(), Dictionary::new(), &Limits::default());
        view(&mut file, &page).unwrap()
    }

    fn at(view: View, x: f64, y: f64) -> (f64, f64) {
        let [a, b, c, d, e, f] = view.matrix;
        (a * x + c * y + e, b * x + d * y + f)
    }

    #[test]
    fn the_origin_is_the_displayed_upper_left_corner_whichever_way_the_page_is_turned() {
        // Turned clockwise, the left edge becomes the top: what is displayed upper left was lower left.
        for (rotate, corner, size) in [
            (0, (10.0, 220.0), (100.0, 200.0)),
            (90, (10.0, 20.0), (200.0, 100.0)),
            (180, (110.0, 20.0), (100.0, 200.0)),
            (270, (110.0, 220.0), (200.0, 100.0)),
            (-90, (110.0, 220.0), (200.0, 100.0)),
            (450, (10.0, 20.0), (200.0, 100.0)),
        ] {
            let view = of(&format!("<</MediaBox[110 20 10 220]/Rotate {rotate}>>"));
            assert_eq!(at(view, 0.0, 0.0), corner, "{rotate}");
            assert_eq!((view.width, view.height), size, "{rotate}");
            let (x, y) = at(view, view.width, -view.height);
            assert!((10.0..=110.0).contains(&x) && (20.0..=220.0).contains(&y), "{rotate}");
        }
    }

    #[test]
    fn only_what_both_boxes_show_is_seen_and_a_senseless_box_counts_for_nothing() {
        let cropped = of("<</MediaBox[0 0 100 100]/CropBox[50 50 200 200]>>");
        assert_eq!((at(cropped, 0.0, 0.0), cropped.width), ((50.0, 100.0), 50.0));
        assert_eq!(of("<</MediaBox[0 0 100 100]/CropBox[200 200 300 300]>>").width, 100.0);
        assert_eq!(of("<</MediaBox[0 0 0 0]>>").width, 612.0);
        assert_eq!(of("<</MediaBox(x)/UserUnit -3>>"), of("<<>>"));
    }
}
