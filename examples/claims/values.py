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
        Clara, Eva, Simon, Helen, Mark, Lucy, Jan, Sofia, Tom, Oscar, Rosa, Victor, Diana, Karl, Hugo, Marta,
        Felix, Nora, Leon, Olga, Henry, Vera, Erik, George, Linda, Walter, Jane, Louis, Carla, Stefan, Amy,
        Bruno, Greta, Samuel, Teresa, Philip, Ines, Gavin, Paula, Rolf, Agnes, Joan, Kurt, Zoe, Andre, Lena,
        Colin, Max, Edith, Ralph, Hanna, Luca, Megan, Otto, Oliver, Katrin, Marcus, Beatrice, Jonas, Rachel,
        Arthur, Camille, Edward, Ingrid, Patrick, Susan, Dario, Heidi, Brian, Lydia, Roman, Fiona, Albert,
        Petra, Neil, Judith, Carlos, Wendy, Esther, Gerald, Naomi, Pablo, Sonja, James, John, William, Joseph,
        Charles, Christopher, Matthew, Andrew, Stephen, Kevin, Jason, Jeffrey, Ryan, Jacob, Gary, Nicholas,
        Eric, Jonathan, Scott, Brandon, Benjamin, Dennis, Jerry, Tyler, Aaron, Douglas, Nathan, Zachary, Kyle,
        Ethan, Keith, Roger, Sean, Dylan, Bruce, Gabriel, Alan, Wayne, Vincent, Russell, Bobby, Howard, Leonard,
        Stanley, Dominic, Julian, Marcel, Sebastian, Tobias, Lukas, Fabian, Markus, Matthias, Dieter, Klaus,
        Jurgen, Wolfgang, Gunther, Horst, Bernd, Uwe, Ulrich, Detlef, Pierre, Jacques, Michel, Antoine, Claude,
        Bernard, Gilles, Laurent, Olivier, Thierry, Guillaume, Mathieu, Baptiste, Marco, Giovanni, Paolo,
        Andrea, Alberto, Giulia, Chiara, Matteo, Lorenzo, Pietro, Enrico, Sergio, Jorge, Miguel, Javier, Diego,
        Fernando, Manuel, Rafael, Eduardo, Joao, Tiago, Nuno, Lars, Nils, Magnus, Bjorn, Henrik, Mikael, Gustav,
        Axel, Soren, Pavel, Tomas, Jiri, Marek, Piotr, Andrzej, Zoltan, Laszlo, Istvan, Dimitri, Nikolai, Igor,
        Bogdan, Mircea, Stavros, Patricia, Jennifer, Barbara, Jessica, Margaret, Betty, Sandra, Emily, Donna,
        Michelle, Carol, Amanda, Melissa, Deborah, Stephanie, Cynthia, Kathleen, Angela, Shirley, Pamela,
        Nicole, Samantha, Katherine, Christine, Catherine, Maureen, Eleanor, Isabella, Olivia, Abigail, Hannah,
        Molly, Chloe, Bridget, Siobhan, Niamh, Gwen, Rhys, Owen, Angus, Ewan, Callum, Ingeborg, Ursula, Renate,
        Monika, Sabine, Annika, Astrid, Sigrid, Kirsten, Brigitte, Monique, Margot, Isabelle, Valentina, Bianca,
        Rosalia, Carmen, Dolores, Pilar, Lucia, Beatriz, Mariana, Katarina, Jana, Zuzana, Agata, Magda, Dorota,
        Ilona, Svetlana, Galina, Ludmila, Daphne, Phoebe, Theodora, Cecilia, Veronica, Gloria, Harriet, Rosemary
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
        Hamburg, Leeds, Lyon, Porto, Vienna, Dublin, Ghent, Turin, Utrecht, Bristol, Munich, Madrid, Basel,
        Cork, Bremen, Milan, Antwerp, Prague, Bergen, Glasgow, Seville, Lille, Graz, Geneva, Leipzig, Oxford,
        Warsaw, Zurich, Bath, Cologne, Bilbao, Venice, York, Budapest, Metz, Bonn, Cardiff, Lisbon, Nantes,
        Salzburg, Derby, Rotterdam, Bologna, Athens, Essen, Dijon, Norwich, Malaga, Krakow, Hull, Brussels,
        Stuttgart, Genoa, Bern, Exeter, Mainz, Toledo, Kiel, Toulouse, Verona, Durham, Palermo, Brest,
        Frankfurt, Preston, Zagreb, Tours, Parma, Kassel, Leuven, Arnhem, Rouen, Vigo, Bergamo, Lund, Trondheim,
        Gdansk, Angers, Luton, Delft, Augsburg, Siena, Poole, Limerick, Cadiz, Nancy, Hasselt, Tampere,
        Bielefeld, Como, Haarlem, Pisa, Stirling, Cannes, Potsdam, Faro, Leicester, Bochum, Namur, Burgos,
        Kolding, Rimini, Breda, Wolfsburg, Berlin, Paris, Manchester, Valencia, Rome, Stockholm, Hanover,
        Bordeaux, Liverpool, Amsterdam, Florence, Galway, Innsbruck, Plymouth, Granada, Tallinn, Aachen, Bruges,
        Marseille, Trieste, Coventry, Lucerne, Chester, Freiburg, Braga, Sheffield, Eindhoven, Birmingham,
        Bradford, Brighton, Cambridge, Canterbury, Carlisle, Chelmsford, Cheltenham, Colchester, Crewe, Croydon,
        Darlington, Doncaster, Dudley, Dundee, Eastbourne, Edinburgh, Aberdeen, Inverness, Perth, Falkirk,
        Gateshead, Gloucester, Halifax, Harrogate, Hastings, Hereford, Huddersfield, Kettering, Lancaster,
        Lichfield, Maidstone, Mansfield, Middlesbrough, Newcastle, Newport, Oldham, Peterborough, Portsmouth,
        Rochdale, Rotherham, Salford, Salisbury, Scarborough, Shrewsbury, Slough, Southampton, Southend,
        Stafford, Stockport, Stoke, Sunderland, Swindon, Taunton, Telford, Torquay, Wakefield, Walsall,
        Warrington, Warwick, Watford, Wigan, Winchester, Windsor, Wolverhampton, Worcester, Wrexham,
        Londonderry, Blackburn, Blackpool, Bolton, Bournemouth, Burnley, Paisley, Truro, Margate, Waterford,
        Kilkenny, Sligo, Dundalk, Wexford, Tralee, Athlone, Boston, Chicago, Seattle, Denver, Houston, Dallas,
        Austin, Atlanta, Detroit, Portland, Phoenix, Baltimore, Cleveland, Pittsburgh, Philadelphia, Milwaukee,
        Minneapolis, Nashville, Memphis, Louisville, Orlando, Tampa, Buffalo, Sacramento, Tucson, Albuquerque,
        Omaha, Tulsa, Wichita, Columbus, Indianapolis, Charlotte, Richmond, Savannah, Charleston, Anchorage,
        Boise, Spokane, Tacoma, Fresno, Berkeley, Pasadena, Syracuse, Rochester, Albany, Hartford, Providence,
        Newark, Trenton, Princeton, Annapolis, Norfolk, Knoxville, Baton Rouge, New Orleans, Little Rock,
        Kansas City, Des Moines, Madison, Lansing, Akron, Dayton, Lexington, Topeka, Reno, Las Vegas, San Diego,
        San Jose, Santa Fe, San Antonio, Fort Worth, Galveston, Lubbock, Duluth, Fargo, Cheyenne, Concord,
        Burlington, Salem, New Haven, Long Beach, Palm Springs, Santa Cruz, Key West, Grand Rapids, Green Bay,
        Los Angeles, San Francisco, Washington, Toronto, Montreal, Vancouver, Ottawa, Calgary, Winnipeg, Quebec,
        Hamilton, Kingston, Saskatoon, Moncton, Guelph, Melbourne, Brisbane, Adelaide, Canberra, Hobart, Darwin,
        Cairns, Geelong, Townsville, Fremantle, Auckland, Wellington, Dunedin, Napier, Queenstown,
        Alice Springs, Gold Coast, Cape Town, Durban, Pretoria, Dortmund, Duisburg, Mannheim, Heidelberg,
        Nuremberg, Regensburg, Passau, Bamberg, Rostock, Lubeck, Schwerin, Magdeburg, Halle, Jena, Weimar,
        Trier, Koblenz, Wuppertal, Krefeld, Oldenburg, Flensburg, Celle, Hildesheim, Darmstadt, Fulda, Marburg,
        Konstanz, Offenburg, Emden, Bayreuth, Coburg, Klagenfurt, Villach, Bregenz, Lugano, Winterthur, Thun,
        Montreux, Davos, Fribourg, Locarno, Strasbourg, Grenoble, Rennes, Montpellier, Avignon, Le Havre,
        Le Mans, Caen, Amiens, Nimes, Perpignan, Clermont, Mulhouse, Troyes, Poitiers, Bayonne, Calais,
        Cherbourg, Toulon, Versailles, Lorient, Arles, Mechelen, Kortrijk, Charleroi, Mons, Tournai, Groningen,
        Leiden, Gouda, Zwolle, Enschede, Almere, Apeldoorn, Alkmaar, Deventer, The Hague, Venlo, Den Bosch,
        Luxembourg, Modena, Ravenna, Ferrara, Padua, Vicenza, Treviso, Udine, Bolzano, Trento, Brescia, Cremona,
        Novara, Savona, Lucca, Livorno, Perugia, Assisi, Ancona, Pescara, Bari, Brindisi, Lecce, Taranto,
        Catania, Messina, Cagliari, Sassari, Salerno, Amalfi, Piacenza, Barcelona, Zaragoza, Cordoba, Alicante,
        Murcia, Cartagena, Almeria, Segovia, Avila, Oviedo, Gijon, Santander, Pamplona, San Sebastian, Girona,
        Tarragona, Lleida, Elche, Marbella, Huelva, Palma, Aveiro, Evora, Sintra, Funchal, Viseu, Lagos,
        Gothenburg, Malmo, Uppsala, Umea, Kiruna, Stavanger, Tromso, Drammen, Copenhagen, Aalborg, Esbjerg,
        Roskilde, Turku, Oulu, Espoo, Vaasa, Kalmar, Narvik, Randers, Vejle, Tartu, Narva, Vilnius, Kaunas,
        Wroclaw, Poznan, Lodz, Lublin, Katowice, Torun, Bratislava, Kosice, Ostrava, Pilsen, Olomouc, Liberec,
        Debrecen, Szeged, Pecs, Maribor, Rijeka, Zadar, Dubrovnik, Mostar, Belgrade, Skopje, Tirana, Varna,
        Burgas, Bucharest, Cluj, Timisoara, Sibiu, Kiev, Lviv, Odessa, Patras, Thessaloniki, Heraklion, Corinth,
        Rhodes, Nicosia, Limassol, Valletta, Istanbul, Moscow, Minsk, Springfield, Jacksonville, Huntsville,
        Harrisburg, Greenwich, Bethlehem, Fairfax, Chattanooga, Wimbledon, Westminster, Bedford, Stratford,
        Arlington, Boulder, Stamford, Bridgeport, Gainesville, Tallahassee, Pensacola, Hollywood, Aspen
    """),
    items=_items(
        parcel="""
            camera lens, winter coat, phone case, running watch, board game, desk lamp, wool blanket, printer,
            sewing machine, tea set, baby monitor, electric drill, cookbook, keyboard, school bag,
            spare battery, rain jacket, walking stick, wedding dress, garden hose, router, car radio,
            picture frame, tool box, fountain pen, lunch box, violin case, garden lamp, bath robe, sleeping bag,
            rice cooker, wall clock, calendar, soap box, bicycle helmet, leather belt, graphics card, tripod,
            ski jacket, chess set, alarm clock, silk scarf, hair dryer, puzzle, telescope, umbrella, music box,
            bread maker, bicycle pump, headphone stand, anorak, atlas, armband, backrest, bandage, basket,
            beanie, bib, bookend, briefcase, broom, bucket, candle, charger, clipboard, cloak, coaster,
            colander, compass, corkscrew, cushion, dictionary, doll, doormat, duvet, dustpan, easel, eraser,
            fan heater, flask, folder, frisbee, funnel, gamepad, garland, goblet, grater, hammer, handkerchief,
            harmonica, hoodie, humidifier, steam iron, jigsaw, jumper, kettle, kimono, kite, ladle, lantern,
            lighter, locket, magnet, magnifier, marker pen, mask, modem, mop, mug, napkin ring, necktie,
            notebook, novel, nutcracker, oven glove, padlock, paintbrush, parasol, pedometer, pencil case,
            perfume, pillow, pitcher, plunger, poncho, poster, pouch, projector, puppet, purse, tennis racket,
            rattle, razor, ribbon, rosary, saddle, saucepan, scale model, scanner, screwdriver, skirt,
            slipper box, spatula, sponge, stapler, stethoscope, stopwatch, sweater, swimsuit, tablecloth,
            tambourine, teapot, thermometer, timer, toaster, torch, toothbrush, towel rail, trampoline,
            serving tray, trowel, tuxedo, vacuum cleaner, vest, waffle iron, waistcoat, webcam, whistle, wig,
            wrench, nail gun, dress shirt, egg timer, ice bucket, jewellery box, knife block, laptop sleeve,
            mouse pad, phone charger, photo album, recipe book, salad bowl, shopping bag, sports bag,
            spice rack, sun hat, swim ring, tea towel, tow rope, travel guide, water bottle, wrist watch,
            bicycle bell, cheese board, dog lead
        """,
        goods="""
            oak table, glass cabinet, wall mirror, bookshelf, kitchen mixer, television, leather chair,
            dinner set, flower vase, garden bench, computer screen, wardrobe, ceramic sink, shower door,
            record player, stone statue, bed frame, fish tank, coffee table, glass door, sofa, dining chair,
            oven, shoe cabinet, crystal vase, bath tub, fridge, stove, window, garden gate, standing desk,
            mixing desk, plant pot, chest of drawers, pine wardrobe, glass bowl, floor lamp, dishwasher,
            garden table, porcelain jug, sideboard, rocking chair, bathroom mirror, dresser, bunk bed,
            bedside table, bar stool, barbecue, beehive, birdcage, bread bin, bureau, candelabra, carafe,
            casserole, cooker hood, cupboard, dehumidifier, fireplace, filing cabinet, fountain, footstool,
            glass dome, greenhouse, headboard, hot tub, kennel, lampshade, letterbox, loom, mannequin,
            nightstand, ottoman, patio heater, pedestal, pergola, photocopier, pizza oven, planter, punch bag,
            radiator, rowing machine, sandpit, sculpture, shower tray, stereo, sundial, terrarium, treadmill,
            trellis, tumble dryer, umbrella stand, wine cooler, workbench
        """,
        pallet="""
            roof tiles, bricks, printer paper, canned soup, dog food, cement, floor tiles, orange juice,
            car tyres, flour, paint, bottled water, solar panels, potatoes, office chairs, wood pellets,
            steel pipes, coffee beans, garden soil, plastic boxes, cleaning fluid, baby food, copper wire,
            olive oil, wall paint, dried pasta, bolts, tomato sauce, sand, concrete blocks, bicycle frames, tea,
            oak boards, seed, detergent, batteries, paving stones, cat litter, apple juice, window frames, rice,
            insulation foam, engine parts, garden chairs, frozen fish, cardboard, sugar, salt, plywood, bananas,
            onions, carrots, lettuce, beer, cider, yoghurt, butter, cheese, honey, vinegar, mustard, noodles,
            oats, barley, charcoal, firewood, coal, chalk, glue, varnish, plaster, mortar, nails, screws,
            cables, valves, pumps, bathtubs, mattresses, cartons, barrels, buckets, candles, soap, shampoo,
            envelopes, textbooks, bulbs, curtains, blankets, shoes, gloves, biscuits, chocolate, cereal, syrup,
            spices, hay, straw
        """,
        car="""
            Volvo V60, Ford Focus, Opel Corsa, Audi A4, Renault Clio, Toyota Yaris, Skoda Octavia, VW Golf,
            Mazda CX-5, Peugeot 208, Honda Civic, BMW X3, Nissan Micra, Volvo XC40, Audi Q5, Ford Fiesta,
            Opel Astra, Hyundai i20, Dacia Duster, VW Passat, Mini Cooper, Skoda Superb, Ford Transit,
            Volvo XC60, Audi A3, Fiat Tipo, Toyota Aygo, Mazda 6, Peugeot 308, BMW X1, Nissan Juke, Seat Leon,
            Volvo V40, Ford Kuga, Suzuki Swift, Audi A6, Jeep Renegade, Mazda 3, BMW 320, Skoda Fabia,
            Toyota Corolla, Volvo S60, Ford Mondeo, Ford Puma, Ford Galaxy, Opel Zafira, Audi TT, Fiat Punto,
            Fiat Doblo, Renault Captur, Renault Twingo, Renault Scenic, Renault Kangoo, Toyota Hilux,
            Toyota Auris, Skoda Kodiaq, VW Tiguan, VW Touran, VW Caddy, Honda Accord, Kia Sportage, BMW Z4,
            Nissan Leaf, Seat Ateca, Hyundai Kona, Dacia Sandero, Dacia Spring, Citroen C5, Suzuki Vitara,
            Jeep Compass, Tesla Roadster, Smart Fortwo, Lancia Delta, Alfa Mito, Jaguar XF, Lexus RX,
            Porsche Cayenne, Porsche Macan, Subaru Outback, Mitsubishi Colt, Chevrolet Spark, Chrysler Voyager,
            Polestar 2, Vauxhall Viva, Mercedes Vito, Mercedes GLA, Lada Niva, Isuzu Trooper
        """,
        home="""
            oak floor, living room carpet, bedroom wall, piano, bathroom cupboard, leather sofa, cellar door,
            wooden staircase, hall carpet, dining table, office floor, kitchen cabinet, bedroom carpet,
            wallpaper, guest bed, laminate floor, antique rug, fuse box, nursery wall, bookcase, mattress,
            garage door, hallway wall, kitchen counter, sewing table, stair carpet, writing desk, TV stand,
            wardrobe door, armchair, linen cupboard, parlour carpet, gym floor, library shelf, doll house,
            parquet floor, bathroom ceiling, cellar carpet, grand piano, kitchen wall, wine rack, office carpet,
            sofa bed, study wall, pantry shelf, basement, banister, bay window, breakfast bar, chaise longue,
            cloakroom, conservatory, cornice, dance floor, doorframe, fitted carpet, games room, harpsichord,
            hearth rug, kitchenette, larder, laundry room, linoleum, lobby floor, loft hatch, lounge carpet,
            meter cupboard, mezzanine, mural, church organ, panelling, porch roof, reception desk, sauna,
            skirting board, skylight, stage floor, storeroom, stucco, tapestry, upholstery, vestibule,
            window seat, wine cellar, worktop, changing table, classroom floor, coat rack, display case,
            dressing table, false ceiling, futon, hi-fi cabinet, chapel roof, curtain rail
        """,
        valuable="""
            racing bike, laptop, gold watch, camera bag, lawn mower, violin, handbag, tablet, silver ring,
            mountain bike, power saw, drone, diamond necklace, surfboard, suitcase, phone, motorbike, tent,
            golf bag, oil painting, wheelchair, road bike, sat nav, backpack, trailer, telephoto lens,
            boat engine, fishing rod, cargo bike, antique clock, toolbox, city bike, pearl necklace, trumpet,
            chainsaw, game console, leather jacket, silver tray, pocket watch, accordion, amplifier, banjo,
            barometer, bracelet, brooch, bugle, camcorder, caravan, cash box, clarinet, coin album, compressor,
            dagger, dinghy, figurine, generator, gramophone, harp, jewel case, kayak, mandolin, medal, moped,
            oboe, pendant, piccolo, pressure washer, pushchair, quad bike, signet ring, sledge, smartwatch,
            soundbar, synthesizer, tandem, tiara, tricycle, tuba, turntable, typewriter, viola, wetsuit,
            xylophone, metal detector, candlestick, cymbal, forklift, go-kart, jukebox, jet ski, leaf blower,
            megaphone, top hat, wakeboard
        """,
    ),
)

HELD_OUT = Values(
    first_names=_words("""
        Paul, Alice, Frank, Irene, Elena, Grace, Adam, Ruth, Ivan, Monica, Silvia, Anton, Anthony, Kenneth,
        Larry, Justin, Gregory, Alexander, Jeremy, Terry, Gerard, Logan, Eugene, Moritz, Jakob, Andreas, Heinz,
        Manfred, Francesca, Ricardo, Alvaro, Sven, Anders, Johan, Boris, Sergei, Yannis, Elizabeth, Karen, Lisa,
        Ashley, Kimberly, Rebecca, Sharon, Brenda, Janet, Heather, Lauren, Gudrun, Birgit, Ulrike, Freya,
        Amelie, Celine, Sylvie, Natalia, Ivana, Tatiana, Miriam, Deirdre
    """),
    last_names=_words("""
        Rossi, Wood, Berg, Santos, Braun, Dunn, Hill, Sato, Bishop, Visser, Pfeiffer, Bennett, Webb, White,
        Brooks, Coleman, Mason, Fletcher, Holmes, Connolly, Moran, MacLeod, Irvine, Hoffmann, Neumann, Schwarz,
        Winkler, Schuster, Ziegler, Pichler, Morel, Bonnet, Rousseau, Nicolas, Janssens, Janssen, Mulder, Galli,
        Vazquez, Iglesias, Medina, Rodrigues, Mendes, Nunes, Vieira, Monteiro, Cardoso, Nilsson, Persson,
        Forsberg, Andersen, Nilsen, Madsen, Zielinski, Svoboda, Petrov, Jovanovic, Volkov, Bowman, Lowe
    """),
    cities=_words("""
        Oslo, Nice, Dresden, Naples, Helsinki, Dover, Reims, Odense, Belfast, Lincoln, Riga, Ulm, Linz, Split,
        Lausanne, Brno, Swansea, Erfurt, Limoges, Ipswich, Nottingham, Aarhus, London, Grimsby, Guildford,
        Northampton, Bangor, Whitby, Miami, Cincinnati, Oakland, Raleigh, Honolulu, El Paso, Jersey City,
        Ann Arbor, Edmonton, Bendigo, Christchurch, Johannesburg, Colmar, Biarritz, Dunkirk, Antibes, Annecy,
        Liege, Ostend, Genk, Maastricht, Tilburg, Nijmegen, Mantua, Pavia, Arezzo, Salamanca, Coimbra, Plovdiv,
        Brasov, Brooklyn, Asheville
    """),
    items=_items(
        parcel="""
            coffee machine, birthday present, toy train, water filter, microphone, medical kit, guitar stand,
            blender, yoga mat, hard disk, cat toy, sunglasses case, football, coffee grinder, travel pillow,
            hammock, apron, bikini, blouse, cardigan, diary, flute, globe, hairbrush, hat box, quilt, robot kit,
            ruler, shawl, skateboard, sketchbook, speaker, stool, thermos, wok, hairpin, bow tie, bird feeder,
            juicer, trouser press
        """,
        goods="""
            marble lamp, office desk, washing machine, wooden crib, vinyl shelf, chandelier, freezer, hat stand,
            ironing board, ladder, lectern, magazine rack, recliner, rocking horse, vanity unit, wheelbarrow
        """,
        pallet="""
            glass jars, paper towels, wine bottles, helmets, toilet paper, gravel, milk, lentils, fertiliser,
            compost, toothpaste, nappies, magazines, toys, tents, cocoa
        """,
        car="""
            Fiat Panda, Kia Ceed, Seat Ibiza, Renault Megane, VW Polo, Honda Jazz, Kia Rio, Opel Insignia,
            Citroen C3, Opel Mokka, Audi A1, Toyota Prius, Peugeot Partner, Kia Picanto, Rover 75,
            Subaru Forester
        """,
        home="""
            kitchen ceiling, attic floor, shop counter, pine floor, wooden ceiling, billiard table, closet,
            partition wall, playpen, settee, shoe rack, sunroom, tool shelf, veranda, guest room, corridor wall
        """,
        valuable="""
            electric scooter, fur coat, espresso machine, wedding ring, guitar, cello, stamp album, wallet,
            snowboard, canoe, hedge trimmer, microscope, rowing boat, saxophone, trombone, rollator
        """,
    ),
)
