//! The words of the world: colours, shapes, places, directions, and how they are written.

use serde::{Deserialize, Serialize};

/// Declares an enum whose variants are words, with a list of all and the way back.
macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $word:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        pub enum $name {
            $($(#[$vdoc])* #[serde(rename = $word)] $variant),+
        }

        impl $name {
            /// Every value, in a fixed order.
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            /// How it is written.
            pub fn word(self) -> &'static str {
                match self { $(Self::$variant => $word),+ }
            }

            /// The value that `word` names.
            pub fn parse(word: &str) -> Option<Self> {
                match word { $($word => Some(Self::$variant),)+ _ => None }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.word())
            }
        }
    };
}

words! {
    /// The colour of an object. All are saturated; backgrounds and flashes are not.
    Colour {
        /// Red.
        Red = "red",
        /// Green.
        Green = "green",
        /// Blue.
        Blue = "blue",
        /// Yellow.
        Yellow = "yellow",
        /// Cyan.
        Cyan = "cyan",
        /// Pink.
        Pink = "pink",
    }
}

impl Colour {
    /// Its red, green and blue.
    pub fn rgb(self) -> [f32; 3] {
        match self {
            Self::Red => [228.0, 26.0, 28.0],
            Self::Green => [30.0, 165.0, 40.0],
            Self::Blue => [45.0, 65.0, 235.0],
            Self::Yellow => [250.0, 220.0, 20.0],
            Self::Cyan => [20.0, 215.0, 230.0],
            Self::Pink => [245.0, 60.0, 205.0],
        }
    }
}

words! {
    /// The shape of an object.
    Shape {
        /// A filled circle.
        Circle = "circle",
        /// A filled square.
        Square = "square",
        /// A filled triangle with equal sides.
        Triangle = "triangle",
        /// A cross of two bars.
        Cross = "cross",
        /// A circle with a hole.
        Ring = "ring",
    }
}

words! {
    /// What an object's surface looks like.
    Texture {
        /// One colour.
        Plain = "plain",
        /// Darker stripes.
        Striped = "striped",
        /// Darker dots.
        Dotted = "dotted",
    }
}

words! {
    /// A direction on the picture.
    Direction {
        /// Towards smaller x.
        Left = "left",
        /// Towards larger x.
        Right = "right",
        /// Towards smaller y.
        Up = "up",
        /// Towards larger y.
        Down = "down",
    }
}

impl Direction {
    /// Unit step in x and y.
    pub fn step(self) -> (f64, f64) {
        match self {
            Self::Left => (-1.0, 0.0),
            Self::Right => (1.0, 0.0),
            Self::Up => (0.0, -1.0),
            Self::Down => (0.0, 1.0),
        }
    }

    /// The direction of the larger of two displacements; `None` for hardly any.
    pub fn of(dx: f64, dy: f64) -> Option<Self> {
        if dx.abs().max(dy.abs()) < 0.05 {
            return None;
        }
        Some(match (dx.abs() >= dy.abs(), dx > 0.0, dy > 0.0) {
            (true, true, _) => Self::Right,
            (true, false, _) => Self::Left,
            (false, _, true) => Self::Down,
            (false, _, false) => Self::Up,
        })
    }
}

words! {
    /// Where something is, seen from something else.
    Side {
        /// To its left.
        Left = "left",
        /// To its right.
        Right = "right",
        /// Above it.
        Above = "above",
        /// Below it.
        Below = "below",
    }
}

words! {
    /// A cell of the picture's 3 x 3 grid.
    Place {
        /// First row, first column.
        TopLeft = "top left",
        /// First row, second column.
        Top = "top",
        /// First row, third column.
        TopRight = "top right",
        /// Second row, first column.
        Left = "left",
        /// The middle.
        Centre = "centre",
        /// Second row, third column.
        Right = "right",
        /// Third row, first column.
        BottomLeft = "bottom left",
        /// Third row, second column.
        Bottom = "bottom",
        /// Third row, third column.
        BottomRight = "bottom right",
    }
}

impl Place {
    /// The cell that holds a point given as fractions of width and height.
    pub fn at(x: f64, y: f64) -> Self {
        let third = |v: f64| ((v * 3.0).floor().clamp(0.0, 2.0)) as usize;
        Self::ALL[third(y) * 3 + third(x)]
    }

    /// Column and row, 0 to 2 each.
    pub fn cell(self) -> (i32, i32) {
        let index = self as i32;
        (index % 3, index / 3)
    }

    /// Whether two cells touch.
    pub fn touches(self, other: Self) -> bool {
        let ((x, y), (u, v)) = (self.cell(), other.cell());
        self != other && (x - u).abs() <= 1 && (y - v).abs() <= 1
    }
}

words! {
    /// How large an object is, in three steps that are far apart.
    Size {
        /// Diameter below 0.2 of the shorter side of the picture.
        Small = "small",
        /// Between the two.
        Medium = "medium",
        /// Diameter above 0.3 of the shorter side of the picture.
        Large = "large",
    }
}

impl Size {
    /// The step that a diameter belongs to.
    pub fn of(diameter: f64) -> Self {
        match diameter {
            d if d < 0.2 => Self::Small,
            d if d > 0.29 => Self::Large,
            _ => Self::Medium,
        }
    }
}

words! {
    /// What can change about an object that stays where it is.
    ChangeKind {
        /// It becomes larger by one step.
        Grows = "grows",
        /// It becomes smaller by one step.
        Shrinks = "shrinks",
        /// It takes another colour.
        ChangesColour = "changes colour",
        /// It turns by half of its symmetry.
        Turns = "turns",
    }
}

words! {
    /// The end of the clip that a question is about.
    Moment {
        /// The first frame.
        First = "first",
        /// The last frame.
        Last = "last",
    }
}
