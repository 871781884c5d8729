"""The things a message is about: names, cities and items, each split into a train and a held-out pool.

No value is in both pools, so a model that gets a held-out value right has copied it, not remembered it. First and last
names are drawn apart from each other and combined at random; they are common names and mean nobody.

First names, cities and items are words that the tokenizer of SmolLM2 spells alike after a space and after a quotation
mark. Others (` Liverpool` is one token in a message, `L` `iver` `pool` after a quotation mark) tested how well a model
of 135M parameters spells, not how well it reads.
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
        Peter, Thomas, Martin, David, Michael, Daniel, Robert, Simon, Mark, Jan, Tom, Victor, Marta, Leon, Olga,
        Henry, Jane, Louis, Carla, Samuel, Paula, Zoe, Lena, Max, Hanna, Jonas, Camille, Ingrid, Dario, Heidi,
        Lydia, Roman, Fiona, Petra, Neil, Sonja, James, Andrew, Stephen, Scott, Brandon, Kyle, Dylan, Dominic,
        Marcel, Tobias, Markus, Dieter, Gunther, Horst, Bernd, Uwe, Detlef, Michel, Antoine, Gilles, Olivier,
        Guillaume, Mathieu, Paolo, Giulia, Matteo, Enrico, Javier, Joao, Tiago, Nils, Henrik, Pavel, Jiri,
        Piotr, Andrzej, Zoltan, Dimitri, Igor, Stavros, Emily, Donna, Maureen, Siobhan, Rhys, Angus, Ewan,
        Callum, Ingeborg, Annika, Astrid, Sigrid, Kirsten, Margot, Bianca, Rosalia, Katarina, Jana, Agata,
        Ilona, Galina, Phoebe, Veronica, Rosemary, Paul, Alice, Frank, Adam, Alexander, Gerard, Manfred, Alvaro,
        Sven, Anders, Johan, Elizabeth, Gudrun, Freya, Amelie, Celine, Ivana, Tatiana, Deirdre
    """),
    last_names=_words("""
        Keller, Novak, Jensen, Moreau, Larsen, Bauer, Dubois, Walsh, Silva, Costa, Murphy, Lang, Schmidt, Evans,
        Baker, Hansen, Kovac, Vogel, Reed, Garcia, Olsen, Turner, Huber, Marino, Cook, Nolan, Ward, Klein,
        Petit, Maier, Bell, Romano, Lind, Parker, Torres, Hughes, Winter, Cole, Popov, Franke, Mills, Girard,
        Bianchi, Foster, Roth, Perez, Barnes, Holm, Carter, Richter, Leroy, Albers, Meyer, Price, Duarte,
        Knight, Peters, Kraus, Conti, Sanders, Lehmann, Morgan, Ferrari, Nielsen, Schulz, Mercier, Fuchs, Hayes,
        Andersson, Molina, Doyle, Burton, Ricci, Vermeer, Lawson, Haas, Pereira, Griffin, Jonker, Marsh, Kaiser,
        Fontaine, Horvat, Sutton, Anderson, Thompson, Wright, Nelson, Phillips, Edwards, Stewart, Morris,
        Rogers, Richardson, Cox, Sullivan, Jenkins, Perry, Powell, Patterson, Fisher, Henderson, Simmons,
        Hamlin, Wallace, Gibson, Marshall, Owens, McDonald, Woods, Wells, Gardner, Spencer, Dixon, Hunt,
        Robertson, Nichols, Hudson, Crawford, Ferguson, Cunningham, Hawkins, Chapman, Elliott, Harvey, Porter,
        Barrett, Pearson, Saunders, Pritchard, Griffiths, Rees, Vaughan, Gallagher, Brennan, Byrne, Doherty,
        Flanagan, Fitzgerald, Kavanagh, Keane, Lynch, Maguire, McCarthy, Quinn, Regan, Sheehan, Tierney, Fraser,
        Sinclair, Drummond, Gilmour, Kerr, Schafer, Wolf, Schroder, Zimmermann, Kruger, Hofmann, Hartmann,
        Lange, Werner, Schmitz, Krause, Kohler, Herrmann, Konig, Mayer, Schulze, Friedrich, Berger, Lorenz,
        Baumann, Kramer, Brandt, Sauer, Arnold, Pohl, Engel, Horn, Busch, Bergmann, Voigt, Dietrich, Kuhn,
        Ritter, Beck, Steiner, Gruber, Moser, Egger, Brunner, Frei, Zeller, Amstutz, Durand, Lefebvre, Bertrand,
        Roux, Fournier, Lambert, Francois, Martinez, Legrand, Garnier, Faure, Blanc, Guerin, Boyer, Chevalier,
        Gauthier, Perrin, Robin, Clement, Morin, Masson, Marchand, Dumas, Peeters, Maes, Jacobs, Mertens,
        Willems, Claes, Goossens, Wouters, Bakker, Smit, Bos, Vos, Hendriks, Dekker, Brouwer, Dijkstra, Kuiper,
        Postma, Hoekstra, Esposito, Colombo, Greco, Gallo, Lombardi, Moretti, Barbieri, Fontana, Santoro,
        Mariani, Rinaldi, Martini, Leone, Longo, Gentile, Martinelli, Vitale, Serra, Gonzalez, Fernandez,
        Sanchez, Gomez, Jimenez, Ruiz, Hernandez, Diaz, Moreno, Alvarez, Munoz, Gutierrez, Navarro, Dominguez,
        Gil, Blanco, Suarez, Delgado, Ortiz, Rubio, Marin, Cortes, Castillo, Ferreira, Oliveira, Alves,
        Carvalho, Teixeira, Moreira, Correia, Soares, Neves, Coelho, Pires, Fonseca, Johansson, Karlsson,
        Eriksson, Svensson, Gustafsson, Lindberg, Bergstrom, Sandberg, Hallberg, Johansen, Pedersen,
        Kristiansen, Eriksen, Haugen, Dahl, Solberg, Moen, Sorensen, Rasmussen, Petersen, Christensen, Poulsen,
        Knudsen, Mortensen, Virtanen, Korhonen, Laine, Niemi, Nowak, Kowalski, Wisniewski, Kaminski, Wozniak,
        Dvorak, Prochazka, Kucera, Horak, Nemec, Nagy, Szabo, Toth, Varga, Molnar, Farkas, Balogh, Horvath,
        Kovacs, Ivanov, Georgiev, Dimitrov, Popescu, Ionescu, Stan, Marinescu, Papadakis, Petrovic, Babic,
        Maric, Juric, Zupan, Kos, Ozols, Tamm, Sokolov, Morozov, Whitaker, Hobbs, Tanner, Fuller, Parsons,
        Chambers, Harding, Norris, Osborne, Goodwin, Sharp, Yates, Barker, Hewitt, Bradley, Stephens, Hodgson,
        Dawson, Payne, Sims, Wheeler, Thornton, Buckley, Kemp, Nash
    """),
    cities=_words("""
        Porto, Ghent, Turin, Utrecht, Bremen, Antwerp, Seville, Lille, Graz, Oxford, Metz, Nantes, Salzburg,
        Rotterdam, Essen, Dijon, Norwich, Malaga, Stuttgart, Genoa, Bern, Mainz, Kiel, Toulouse, Verona,
        Palermo, Brest, Zagreb, Parma, Kassel, Leuven, Arnhem, Vigo, Trondheim, Gdansk, Angers, Luton, Delft,
        Augsburg, Siena, Limerick, Tampere, Bielefeld, Como, Haarlem, Pisa, Cannes, Potsdam, Faro, Bochum,
        Kolding, Breda, Paris, Valencia, Rome, Hanover, Bordeaux, Galway, Innsbruck, Aachen, Bruges, Marseille,
        Trieste, Coventry, Lucerne, Freiburg, Braga, Eindhoven, Cambridge, Carlisle, Colchester, Crewe,
        Darlington, Doncaster, Eastbourne, Inverness, Harrogate, Hereford, Huddersfield, Lichfield,
        Middlesbrough, Oldham, Peterborough, Rochdale, Rotherham, Salford, Shrewsbury, Slough, Southend,
        Stockport, Stoke, Sunderland, Swindon, Taunton, Telford, Torquay, Warrington, Wigan, Wolverhampton,
        Wrexham, Londonderry, Blackburn, Blackpool, Bolton, Burnley, Paisley, Margate, Waterford, Kilkenny,
        Sligo, Wexford, Tralee, Boston, Chicago, Albuquerque, Wichita, Boise, Spokane, Newark, Annapolis, Baton
        Rouge, New Orleans, Little Rock, Des Moines, Madison, Lansing, Akron, Topeka, Reno, San Diego, San Jose,
        San Antonio, Fort Worth, Fargo, Burlington, New Haven, Long Beach, Key West, Grand Rapids, Green Bay,
        Los Angeles, San Francisco, Washington, Moncton, Guelph, Darwin, Cairns, Geelong, Fremantle, Dunedin,
        Queenstown, Alice Springs, Gold Coast, Durban, Dortmund, Duisburg, Regensburg, Passau, Rostock, Lubeck,
        Schwerin, Magdeburg, Halle, Jena, Trier, Koblenz, Wuppertal, Krefeld, Oldenburg, Flensburg, Celle,
        Darmstadt, Marburg, Offenburg, Emden, Bayreuth, Bregenz, Winterthur, Thun, Montreux, Davos, Fribourg,
        Locarno, Strasbourg, Rennes, Montpellier, Avignon, Le Havre, Le Mans, Caen, Amiens, Nimes, Perpignan,
        Clermont, Mulhouse, Poitiers, Bayonne, Toulon, Lorient, Arles, Mechelen, Kortrijk, Charleroi, Groningen,
        Gouda, Zwolle, Enschede, Almere, Apeldoorn, Alkmaar, Deventer, The Hague, Venlo, Den Bosch, Modena,
        Padua, Treviso, Udine, Bolzano, Brescia, Cremona, Novara, Perugia, Assisi, Ancona, Pescara, Bari,
        Brindisi, Lecce, Taranto, Catania, Messina, Cagliari, Salerno, Amalfi, Piacenza, Zaragoza, Alicante,
        Murcia, Cartagena, Almeria, Segovia, Avila, Gijon, Pamplona, San Sebastian, Girona, Lleida, Elche,
        Marbella, Huelva, Palma, Evora, Sintra, Funchal, Viseu, Lagos, Gothenburg, Uppsala, Umea, Stavanger,
        Tromso, Drammen, Aalborg, Esbjerg, Roskilde, Turku, Oulu, Narvik, Randers, Vejle, Narva, Kaunas,
        Wroclaw, Poznan, Torun, Bratislava, Ostrava, Pilsen, Olomouc, Liberec, Debrecen, Pecs, Maribor, Rijeka,
        Zadar, Mostar, Belgrade, Skopje, Varna, Cluj, Timisoara, Lviv, Odessa, Patras, Heraklion, Nicosia,
        Limassol, Valletta, Minsk, Jacksonville, Fairfax, Wimbledon, Pensacola, Aspen
    """),
    items=_items(
        parcel="""
            camera lens, winter coat, phone case, running watch, board game, printer, baby monitor, electric
            drill, cookbook, school bag, rain jacket, walking stick, router, car radio, picture frame, tool box,
            bath robe, rice cooker, wall clock, calendar, tripod, ski jacket, hair dryer, music box, bread
            maker, headphone stand, anorak, armband, backrest, beanie, bib, bookend, briefcase, bucket,
            clipboard, coaster, colander, corkscrew, dictionary, doormat, duvet, dustpan, easel, eraser, fan
            heater, folder, frisbee, gamepad, garland, grater, handkerchief, hoodie, jigsaw, jumper, kimono,
            ladle, locket, magnifier, marker pen, mask, mop, mug, necktie, nutcracker, oven glove, padlock,
            pedometer, plunger, poncho, rattle, rosary, scale model, screwdriver, stapler, stethoscope,
            stopwatch, sweater, tablecloth, tambourine, teapot, timer, toaster, torch, serving tray, trowel,
            tuxedo, vest, waffle iron, webcam, wig, nail gun, egg timer, ice bucket, mouse pad, phone charger,
            photo album, recipe book, sun hat, tow rope, travel guide, water bottle, dog lead
        """,
        goods="""
            glass cabinet, wall mirror, bookshelf, flower vase, computer screen, wardrobe, record player, stone
            statue, bed frame, fish tank, glass door, sofa, oven, bath tub, window, standing desk, plant pot,
            pine wardrobe, glass bowl, floor lamp, sideboard, rocking chair, bedside table, bar stool, beehive,
            birdcage, bread bin, candelabra, carafe, cupboard, dehumidifier, footstool, glass dome, headboard,
            hot tub, kennel, letterbox, loom, mannequin, nightstand, ottoman, patio heater, pergola, rowing
            machine, sandpit, terrarium, tumble dryer, wine cooler, workbench
        """,
        pallet="""
            roof tiles, bricks, printer paper, canned soup, dog food, cement, floor tiles, orange juice, car
            tyres, flour, paint, bottled water, solar panels, potatoes, office chairs, wood pellets, steel
            pipes, coffee beans, garden soil, plastic boxes, cleaning fluid, baby food, copper wire, olive oil,
            wall paint, dried pasta, bolts, tomato sauce, sand, concrete blocks, bicycle frames, tea, oak
            boards, seed, detergent, batteries, paving stones, cat litter, apple juice, window frames, rice,
            insulation foam, engine parts, garden chairs, frozen fish, cardboard, sugar, salt, plywood, bananas,
            onions, carrots, lettuce, beer, cider, yoghurt, butter, cheese, honey, vinegar, mustard, noodles,
            oats, barley, charcoal, firewood, coal, chalk, glue, varnish, plaster, mortar, nails, screws,
            cables, valves, pumps, bathtubs, mattresses, cartons, barrels, buckets, candles, soap, shampoo,
            envelopes, textbooks, bulbs, curtains, blankets, shoes, gloves, biscuits, chocolate, cereal, syrup,
            spices, hay, straw
        """,
        car="""
            Volvo V60, Opel Corsa, Audi A4, Renault Clio, Skoda Octavia, VW Golf, Peugeot 208, Honda Civic, BMW
            X3, Volvo XC40, Audi Q5, Opel Astra, Hyundai i20, Dacia Duster, VW Passat, Skoda Superb, Volvo XC60,
            Audi A3, Fiat Tipo, Peugeot 308, BMW X1, Seat Leon, Volvo V40, Audi A6, Jeep Renegade, BMW 320,
            Skoda Fabia, Volvo S60, Opel Zafira, Audi TT, Fiat Punto, Fiat Doblo, Renault Captur, Renault
            Twingo, Renault Scenic, Renault Kangoo, Skoda Kodiaq, VW Tiguan, VW Touran, VW Caddy, Honda Accord,
            Kia Sportage, BMW Z4, Seat Ateca, Hyundai Kona, Dacia Sandero, Dacia Spring, Citroen C5, Jeep
            Compass, Smart Fortwo, Alfa Mito, Jaguar XF, Lexus RX, Porsche Cayenne, Porsche Macan, Subaru
            Outback, Polestar 2, Vauxhall Viva, Lada Niva, Isuzu Trooper
        """,
        home="""
            living room carpet, cellar door, hall carpet, office floor, bookcase, hallway wall, writing desk, TV
            stand, wardrobe door, armchair, parlour carpet, library shelf, parquet floor, cellar carpet, grand
            piano, wine rack, office carpet, sofa bed, study wall, banister, bay window, chaise longue, cornice,
            doorframe, games room, harpsichord, larder, linoleum, loft hatch, lounge carpet, meter cupboard,
            mezzanine, church organ, panelling, sauna, skirting board, skylight, stage floor, storeroom, stucco,
            vestibule, window seat, wine cellar, worktop, changing table, coat rack, display case, false
            ceiling, futon, hi-fi cabinet
        """,
        valuable="""
            racing bike, gold watch, camera bag, handbag, power saw, phone, motorbike, oil painting, road bike,
            sat nav, telephoto lens, boat engine, fishing rod, city bike, chainsaw, game console, banjo,
            barometer, brooch, bugle, camcorder, caravan, cash box, coin album, dagger, dinghy, generator,
            gramophone, mandolin, moped, oboe, pendant, piccolo, pressure washer, pushchair, quad bike, signet
            ring, sledge, smartwatch, soundbar, tiara, tuba, turntable, typewriter, viola, wetsuit, metal
            detector, candlestick, cymbal, forklift, go-kart, jukebox, jet ski, leaf blower, megaphone, top hat,
            wakeboard
        """,
    ),
)

HELD_OUT = Values(
    first_names=_words("""
        Nora, George, Svetlana, Chloe, Anna, Jacob, Edward, Tomas, Moritz, William, Joseph, Niamh, Charles,
        Sarah, Zuzana, Klaus, Irene, Thierry, Matthew, Arthur, Sergio, Megan, Silvia, Magnus, Yannis, Pilar,
        Maria, Luca, Rolf, Monika, Renate, Ines, Gwen, Matthias, John, Monique, Daphne, Soren, Magda, Lucia
    """),
    last_names=_words("""
        Rossi, Wood, Berg, Santos, Braun, Dunn, Hill, Sato, Bishop, Visser, Pfeiffer, Bennett, Webb, White,
        Brooks, Coleman, Mason, Fletcher, Holmes, Connolly, Moran, MacLeod, Irvine, Hoffmann, Neumann, Schwarz,
        Winkler, Schuster, Ziegler, Pichler, Morel, Bonnet, Rousseau, Nicolas, Janssens, Janssen, Mulder, Galli,
        Vazquez, Iglesias, Medina, Rodrigues, Mendes, Nunes, Vieira, Monteiro, Cardoso, Nilsson, Persson,
        Forsberg, Andersen, Nilsen, Madsen, Zielinski, Svoboda, Petrov, Jovanovic, Volkov, Bowman, Lowe
    """),
    cities=_words("""
        Reims, Odense, Lincoln, Riga, Ulm, Linz, Split, Lausanne, Brno, Erfurt, Limoges, Ipswich, Aarhus,
        London, Northampton, Whitby, El Paso, Ann Arbor, Christchurch, Colmar, Biarritz, Dunkirk, Antibes,
        Annecy, Liege, Genk, Maastricht, Nijmegen, Pavia, Arezzo, Salamanca, Coimbra, Plovdiv, Asheville
    """),
    items=_items(
        parcel="""
            water filter, medical kit, hard disk, cat toy, travel pillow, apron, bikini, blouse, cardigan,
            hairbrush, hat box, robot kit, shawl, thermos, wok, hairpin, bow tie, bird feeder, juicer
        """,
        goods="""
            office desk, washing machine, chandelier, hat stand, ironing board, lectern, rocking horse,
            wheelbarrow
        """,
        pallet="""
            glass jars, paper towels, wine bottles, helmets, toilet paper, gravel, milk, lentils, fertiliser,
            compost, toothpaste, nappies, magazines, toys, tents, cocoa
        """,
        car="""
            Fiat Panda, Kia Ceed, Seat Ibiza, Renault Megane, VW Polo, Honda Jazz, Kia Rio, Opel Insignia,
            Citroen C3, Opel Mokka, Audi A1, Peugeot Partner, Kia Picanto, Subaru Forester
        """,
        home="""
            shop counter, pine floor, billiard table, partition wall, playpen, settee, sunroom, tool shelf,
            veranda
        """,
        valuable="""
            electric scooter, fur coat, espresso machine, cello, stamp album, wallet, snowboard, rowing boat,
            trombone, rollator
        """,
    ),
)
