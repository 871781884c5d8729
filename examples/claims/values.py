"""The things a message is about: names, cities and items, each split into a train and a held-out pool.

No value is in both pools, so a model that gets a held-out value right has copied it, not remembered it. First and last
names are drawn apart from each other and combined at random; they are common names and mean nobody.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Values:
    """One pool of values; `items` is keyed by the kinds of claim that an item can appear in."""

    first_names: tuple[str, ...]
    last_names: tuple[str, ...]
    cities: tuple[str, ...]
    items: dict[str, tuple[str, ...]]


def _words(block: str) -> tuple[str, ...]:
    """Split a block of comma-separated values, so that the pools below read like lists and not like code."""
    return tuple(" ".join(value.split()) for value in block.split(","))


def _items(parcel: str, goods: str, pallet: str, car: str, home: str, valuable: str) -> dict[str, tuple[str, ...]]:
    """Spread six lists of items over the eight kinds: any parcel can be late, lost or wrongly delivered."""
    return {
        "delayed parcel": _words(parcel),
        "lost parcel": _words(parcel),
        "wrong delivery": _words(parcel),
        "damaged goods": _words(goods),
        "missing pallet": tuple(f"pallet of {load}" for load in _words(pallet)),
        "car damage": _words(car),
        "water damage": _words(home),
        "theft": _words(valuable),
    }


TRAIN = Values(
    first_names=_words("""
        Anna, Peter, Maria, Thomas, Julia, Martin, Laura, David, Sarah, Michael, Emma, Daniel, Nina, Robert,
        Clara, Paul, Eva, Simon, Helen, Mark, Lucy, Jan, Sofia, Tom, Alice, Frank, Irene, Oscar, Rosa, Victor,
        Diana, Karl, Elena, Hugo, Marta, Felix, Nora, Leon, Grace, Adam, Olga, Henry, Vera, Erik, Ruth, George,
        Linda, Ivan, Monica, Walter, Jane, Louis, Carla, Stefan, Amy, Bruno, Greta, Samuel, Teresa, Philip,
        Ines, Gavin, Paula, Rolf, Agnes, Milan, Joan, Kurt, Zoe, Andre, Lena, Colin, Silvia, Max, Edith, Ralph,
        Hanna, Luca, Megan, Otto
    """),
    last_names=_words("""
        Keller, Smith, Novak, Jensen, Moreau, Brown, Weber, Rossi, Larsen, Clark, Bauer, Dubois, Walsh, Silva,
        Fischer, Wood, Costa, Berg, Murphy, Lang, Martin, Green, Schmidt, Evans, Lopez, Baker, Hansen, Kovac,
        Russell, Vogel, Reed, Garcia, Olsen, Turner, Huber, Marino, Cook, Becker, Nolan, Santos, Ward, Klein,
        Petit, Harris, Maier, Ryan, Bell, Romano, Lind, Parker, Braun, Torres, Hughes, Winter, Cole, Popov,
        Young, Franke, Mills, Girard, Stone, Wagner, Kelly, Bianchi, Foster, Roth, Perez, Barnes, Holm, Carter,
        Richter, Dunn, Leroy, Hill, Simon, Fox, Albers, Meyer, Price, Duarte, Knight, Peters, Sato, Allen,
        Kraus, Bishop, Conti, Page, Visser, Gray
    """),
    cities=_words("""
        Hamburg, Leeds, Lyon, Porto, Vienna, Dublin, Ghent, Turin, Utrecht, Bristol, Munich, Madrid, Basel,
        Oslo, Cork, Bremen, Milan, Nice, Antwerp, Prague, Bergen, Dresden, Glasgow, Seville, Lille, Graz,
        Geneva, Leipzig, Oxford, Naples, Warsaw, Zurich, Bath, Helsinki, Cologne, Bilbao, Dover, Venice, York,
        Budapest, Metz, Bonn, Cardiff, Lisbon, Nantes, Salzburg, Derby, Rotterdam, Bologna, Athens, Essen,
        Dijon, Norwich, Malaga, Krakow, Hull, Brussels, Stuttgart, Genoa, Reims, Bern, Exeter, Odense, Mainz,
        Toledo, Kiel, Belfast, Toulouse, Verona, Lincoln, Riga, Ulm, Durham, Palermo, Brest, Frankfurt, Linz,
        Preston, Zagreb, Tours, Parma, Kassel, Leuven, Arnhem, Rouen, Vigo, Bergamo, Lund, Trondheim, Gdansk,
        Split, Angers, Luton, Lausanne, Delft, Augsburg, Brno, Siena, Poole, Limerick, Cadiz, Nancy, Hasselt,
        Tampere, Bielefeld, Swansea, Como, Haarlem, Erfurt, Pisa, Stirling, Cannes, Potsdam, Faro,
        Limoges, Leicester, Bochum, Namur, Burgos, Kolding, Ipswich, Rimini, Breda, Wolfsburg
    """),
    items=_items(
        parcel="""
            coffee machine, camera lens, winter coat, phone case, running watch, board game, desk lamp, wool
            blanket, birthday present, printer, sewing machine, tea set, baby monitor, electric drill, toy
            train, cookbook, keyboard, school bag, spare battery, water filter, rain jacket, microphone, walking
            stick, medical kit, wedding dress, garden hose, router, guitar stand, car radio, picture frame, tool
            box, blender, yoga mat, fountain pen, hard disk, lunch box, violin case, garden lamp, bath robe, cat
            toy, sunglasses case, football, sleeping bag, rice cooker, wall clock, calendar, soap box, bicycle
            helmet, leather belt, graphics card
        """,
        goods="""
            oak table, glass cabinet, wall mirror, bookshelf, marble lamp, kitchen mixer, television, leather
            chair, dinner set, office desk, flower vase, washing machine, garden bench, computer screen,
            wardrobe, ceramic sink, shower door, wooden crib, record player, stone statue, bed frame, fish tank,
            coffee table, glass door, sofa, dining chair, oven, shoe cabinet, vinyl shelf, crystal vase, bath
            tub, fridge, chandelier, stove, window, garden gate, standing desk, mixing desk, plant pot, chest of
            drawers
        """,
        pallet="""
            roof tiles, bricks, printer paper, canned soup, dog food, cement, floor tiles, orange juice, car
            tyres, flour, paint, bottled water, solar panels, potatoes, office chairs, wood pellets, steel
            pipes, coffee beans, garden soil, plastic boxes, cleaning fluid, baby food, copper wire, olive oil,
            wall paint, dried pasta, bolts, glass jars, tomato sauce, sand, concrete blocks, paper towels,
            bicycle frames, tea, wine bottles, oak boards, seed, detergent, helmets, batteries
        """,
        car="""
            Volvo V60, Ford Focus, Opel Corsa, Audi A4, Fiat Panda, Renault Clio, Toyota Yaris, Skoda Octavia,
            VW Golf, Mazda CX-5, Peugeot 208, Honda Civic, Kia Ceed, BMW X3, Nissan Micra, Seat Ibiza, Volvo
            XC40, Audi Q5, Ford Fiesta, Opel Astra, Hyundai i20, Dacia Duster, VW Passat, Mini Cooper, Skoda
            Superb, Ford Transit, Volvo XC60, Audi A3, Fiat Tipo, Renault Megane, Toyota Aygo, VW Polo, Mazda 6,
            Peugeot 308, Honda Jazz, Kia Rio, BMW X1, Nissan Juke, Seat Leon, Opel Insignia
        """,
        home="""
            kitchen ceiling, oak floor, living room carpet, bedroom wall, piano, bathroom cupboard, leather
            sofa, cellar door, wooden staircase, hall carpet, dining table, office floor, kitchen cabinet,
            bedroom carpet, wallpaper, guest bed, laminate floor, antique rug, attic floor, shop counter, fuse
            box, nursery wall, bookcase, mattress, pine floor, garage door, hallway wall, kitchen counter,
            sewing table, stair carpet, writing desk, wooden ceiling, TV stand, wardrobe door, armchair, linen
            cupboard, parlour carpet, gym floor, library shelf, doll house
        """,
        valuable="""
            racing bike, laptop, gold watch, camera bag, electric scooter, lawn mower, violin, handbag, tablet,
            silver ring, mountain bike, power saw, drone, diamond necklace, surfboard, suitcase, phone,
            motorbike, tent, fur coat, espresso machine, golf bag, oil painting, wheelchair, wedding ring,
            guitar, road bike, sat nav, backpack, trailer, telephoto lens, cello, boat engine, fishing rod,
            stamp album, wallet, cargo bike, snowboard, antique clock, toolbox
        """,
    ),
)

HELD_OUT = Values(
    first_names=_words("""
        Oliver, Katrin, Marcus, Beatrice, Jonas, Rachel, Arthur, Camille, Edward, Ingrid, Patrick, Susan, Dario,
        Heidi, Brian, Lydia, Roman, Fiona, Albert, Petra, Neil, Judith, Carlos, Wendy, Anton, Esther, Gerald,
        Naomi, Pablo, Sonja
    """),
    last_names=_words("""
        Sanders, Lehmann, Morgan, Ferrari, Nielsen, Graham, Schulz, Mercier, Fuchs, Hayes, Andersson, Molina,
        Doyle, Pfeiffer, Burton, Ricci, Vermeer, Lawson, Haas, Pereira, Griffin, Jonker, Marsh, Kaiser, Bennett,
        Lund, Fontaine, Webb, Horvat, Sutton
    """),
    cities=_words("""
        Berlin, Paris, Manchester, Valencia, Rome, Stockholm, Hanover, Bordeaux, Liverpool, Amsterdam, Florence,
        Galway, Innsbruck, Plymouth, Granada, Tallinn, Aachen, Nottingham, Bruges, Marseille, Trieste, Coventry,
        Lucerne, Aarhus, Ljubljana, Chester, Freiburg, Braga, Sheffield, Eindhoven
    """),
    items=_items(
        parcel="""
            coffee grinder, tripod, ski jacket, chess set, alarm clock, silk scarf, hair dryer, puzzle,
            telescope, umbrella, music box, bread maker, football shirt, headphones stand, bicycle pump, travel
            pillow
        """,
        goods="""
            pine wardrobe, glass bowl, floor lamp, dishwasher, garden table, porcelain jug, sideboard, rocking
            chair, freezer, bathroom mirror
        """,
        pallet="""
            paving stones, toilet paper, cat litter, apple juice, window frames, rice, insulation foam, engine
            parts, garden chairs, frozen fish
        """,
        car="""
            Volvo V40, Ford Kuga, Citroen C3, Suzuki Swift, Audi A6, Jeep Renegade, Mazda 3, BMW 320, Skoda
            Fabia, Toyota Corolla
        """,
        home="""
            parquet floor, bathroom ceiling, cellar carpet, grand piano, kitchen wall, wine rack, office carpet,
            sofa bed, study wall, pantry shelf
        """,
        valuable="""
            city bike, pearl necklace, trumpet, chainsaw, game console, leather jacket, canoe, silver tray,
            pocket watch, binoculars case
        """,
    ),
)
