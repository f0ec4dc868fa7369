"""The street: its neighborhood, its weather, its lanes, and the widths of all beside it."""

from dataclasses import dataclass

from datamodules.scenes.dice import Dice
from datamodules.scenes.materials import shade
from datamodules.scenes.painter import Weather

END = 160.0  # meters: the ground ends behind the last houses
LANE = 3.2  # meters
SKIES = ((142, 182, 226), (150, 188, 228), (205, 212, 220), (226, 226, 228), (176, 202, 230))


def weather_of(dice: Dice) -> Weather:
    sky = shade(dice.pick(SKIES), dice.between(0.9, 1.06))
    haze = shade(tuple(channel + 16 for channel in sky), 0.9)
    return Weather(sky, haze, sight=dice.between(150, 420), sun=dice.side(), sunny=dice.chance(0.6))


@dataclass(frozen=True)
class Style:
    """What kind of neighborhood; the odds of what stands beside the road."""

    share: float
    houses: float
    verge: float  # a green strip
    trees: float  # a row along the street
    railings: float
    people: float  # on each sidewalk
    floors: tuple[int, int]
    backdrop: float  # houses, not trees, at the street's end
    wide: float = 0  # meters of additional road
    gardens: bool = False  # around the houses


URBAN = Style(
    0.52,
    houses=0.82,
    verge=0.14,
    trees=0.45,
    railings=0.13,
    people=5.2,
    floors=(4, 7),
    backdrop=0.65,
)
AVENUE = Style(
    0.26,
    houses=0.66,
    verge=0.36,
    trees=0.75,
    railings=0.24,
    people=3.8,
    floors=(4, 7),
    backdrop=0.45,
    wide=3,
)
SUBURB = Style(
    0.12,
    houses=0.46,
    verge=0.70,
    trees=0.66,
    railings=0.40,
    people=1.6,
    floors=(2, 3),
    backdrop=0.30,
    gardens=True,
)
PARK = Style(
    0.10,
    houses=0.16,
    verge=0.85,
    trees=0.75,
    railings=0.50,
    people=1.2,
    floors=(2, 3),
    backdrop=0.15,
    gardens=True,
)
STYLES = (URBAN, AVENUE, SUBURB, PARK)


def one_style(roll: float) -> Style:
    for style in STYLES[:-1]:
        if roll < style.share:
            return style
        roll -= style.share
    return STYLES[-1]


@dataclass(frozen=True)
class Bank:
    """One side of the street, in meters from the middle of the own lane.

    `side` is -1 on the left and 1 on the right.
    """

    side: int
    road: float  # where the road ends
    verge: float  # width of the green strip, 0 without
    inner: bool  # the verge lies between road and sidewalk, not behind it
    front: float  # where the houses begin
    parking: float  # width of the lane with parked cars, a part of the road

    @classmethod
    def drawn(cls, dice: Dice, style: Style, side: int, inner: bool) -> "Bank":
        parking = 2.2 if dice.chance(0.30) else 0.0
        # one drives on the right: the road is wider on the left
        width = (
            dice.between(2.5, 6.6) + style.wide * 2 / 3
            if side < 0
            else dice.between(1.7, 3.9) + style.wide / 3
        )
        road = width + 0.8 * parking
        verge = dice.between(1.5, 5) if dice.chance(style.verge) else 0.0
        front = road + dice.between(2.2, 7.2) + verge
        return cls(side, side * road, verge, inner, side * front, parking)

    @property
    def split(self) -> float:
        """x between verge and sidewalk."""
        return self.beside(self.verge) if self.inner else self.front - self.side * self.verge

    def beside(self, distance: float) -> float:
        """x at this distance from the road, away from it."""
        return self.road + self.side * distance


@dataclass(frozen=True)
class Street:
    style: Style
    weather: Weather
    left: Bank
    right: Bank
    start: float  # x where the lanes begin, without those for parking
    end: float
    count: int  # of the lanes
    rails: float | None  # the middle of the track

    @classmethod
    def drawn(cls, dice: Dice) -> "Street":
        style, inner = one_style(dice.roll()), dice.chance(0.4)
        left, right = Bank.drawn(dice, style, -1, inner), Bank.drawn(dice, style, 1, inner)
        start, end = left.road + left.parking, right.road - right.parking
        count = max(1, round((end - start) / LANE))
        rails = (
            start + (end - start) * (dice.whole(1, count) - 0.5) / count
            if dice.chance(0.06)
            else None
        )
        return cls(style, weather_of(dice), left, right, start, end, count, rails)

    @property
    def banks(self) -> tuple[Bank, Bank]:
        return self.left, self.right

    @property
    def sunny_bank(self) -> Bank:
        """The side above which the sun stands."""
        return self.left if self.weather.sun < 0 else self.right

    @property
    def lanes(self) -> list[float]:
        """Their middles."""
        return [self.across(number + 0.5) for number in range(self.count)]

    @property
    def dividers(self) -> list[float]:
        return [self.across(number) for number in range(self.count + 1)]

    def across(self, lanes: float) -> float:
        """x after so many lanes."""
        return self.start + (self.end - self.start) * lanes / self.count
