"""The sentences a message is made of, split into a train and a held-out pool.

How to read them: one sentence a line; `[a|b|]` is a choice (the last one empty); `{ref}`, `{date}`, `{place}`,
`{item}` (`{a_item}` with its article), `{amount}` and `{name}` are the values that the answer asks for. `{other_date}`,
`{early_date}` and `{other_place}` fill distractors. No sentence begins with `{item}`, whose first letter would change.

The two pools were written apart: a held-out sentence is no respelling of a trained one.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Phrases:
    """One pool of sentences.

    `incidents` is keyed by kind. `openers` and `details` are keyed by the group of kinds they suit: `all`; `shipment`
    or `policy` (what the reference belongs to); and for details `due`, `delivered` or `event` (what the date means).
    """

    incidents: dict[str, tuple[str, ...]]
    openers: dict[str, tuple[str, ...]]
    details: dict[str, tuple[str, ...]]
    amounts: tuple[str, ...]
    no_amount: tuple[str, ...]
    greetings: tuple[str, ...]
    signatures: tuple[str, ...]
    distractors: tuple[str, ...]
    shipment_distractors: tuple[str, ...]


def _lines(block: str) -> tuple[str, ...]:
    """One sentence a line."""
    return tuple(line.strip() for line in block.strip().splitlines() if line.strip())


TRAIN = Phrases(
    incidents={
        "delayed parcel": _lines("""
            [My|Our|The] {item} [is|was|comes] late.
            My {item} was due on {date} and only arrived [days|a week] later.
            The {item} was promised for {date} and [came|arrived] six days late.
            On {date} I waited all day for the {item}, but it came [only much later|a week late].
            The {item} should have been in {place} on {date}, yet it is still [on the road|in transit].
            You said {date} for the {item}; it took [four|nine] days more.
            The tracking says the {item} is still on its way [to {place}|to us in {place}].
            [My|Our] {item} for {place} is [running very late|delayed again|badly delayed].
            I want to report a [late|delayed] parcel with {a_item}, due [in {place}|here in {place}] on {date}.
            Delivery of [my|our|the] {item} to {place} is [overdue|behind schedule].
            Delayed: {item}, due {date}, {place}.
            Late delivery: {item}, {place}.
            Parcel late. Contents: {item}. Due {date}.
            The driver brought [my|our] {item} to {place} far too late.
            The {item} I ordered to {place} is [delayed|late|overdue].
            Why does {a_item} take three weeks to {place}?
            It was {date} when the {item} was due, and you brought it [five|eight] days after that.
            We got the {item}, but [much too late|ten days too late].
            My {item} sits in your depot instead of being in {place} on time.
            The {item} is moving again, but it [missed its day|is late]: {date}.
            Your delay with [my|our] {item} in {place} is [annoying|a real problem].
            Since {date} we have been waiting in {place} for the {item}; it is stuck [at customs|in your depot].
            The parcel with my {item} is late [once more|again], it was due on {date}.
            Due on {date}, my {item} reached {place} two weeks [after that|late].
            The {item} for shipment {ref} is late.
            Under {ref} you carry my {item}, and it is overdue since {date}.
            In {place} we still wait for the {item} that you keep postponing.
            [You keep|Your people keep] putting off the delivery of my {item}.
            My {item} is [a week|many days|three days] late.
            [Still no sign of|I keep waiting for] my {item}, due on {date}; tracking says it is on the way.
            The {item} was planned for {date} and came [with a delay|late].
            You are [late|slow] again with the {item} to {place}.
            For days the {item} has not left your depot [in spite of your promise|], though it was due on {date}.
            Your courier came with the {item} long after {date}.
        """),
        "lost parcel": _lines("""
            [My|Our|The] {item} [got lost|is lost|was lost] on the way.
            [My|Our|The] {item} never arrived, and you [have confirmed|say] that it is lost.
            You have lost [my|our|the] {item}.
            The {item} due on {date} has vanished [without a trace|from your system].
            The parcel with the {item} is lost; it was due [in {place}|here in {place}] on {date}.
            On {date} the {item} should have come to {place}, but your depot cannot find it any more.
            Nobody [at your depot|in your company] can find [my|our] {item} any more.
            My {item} for {place} has disappeared.
            [Lost|Lost in transit]: {item}, due {date}, {place}.
            Parcel lost. Contents: {item}. Destination: {place}.
            Please search for the {item} that you lost on the way to {place}.
            The {item} was expected on {date}, and your driver told me the parcel is gone for good.
            Somewhere before {place} your people lost my {item}.
            Tracking of the {item} ended in nowhere; it is officially lost.
            I never got the {item}; your [office|hotline] declared the parcel lost.
            How can {a_item} simply disappear on its way to {place}?
            You admit that the {item} due on {date} cannot be found.
            We give up on the {item} for {place}, which you have lost.
            I report the loss of a parcel with {a_item}, due on {date}.
            A parcel with {a_item} went missing and was never seen again.
            The {item} left your depot, never reached {place} and is now written off as lost.
            My {item}, due {date}, was lost by your [carrier|driver].
            The {item} under {ref} is lost.
            Shipment {ref} with my {item} went missing before it got to {place}.
            Your search for [my|our] {item} ended with nothing: the parcel is lost.
            It was {date} when the {item} was due; you lost it.
            I am told that my {item} is gone and will not be found.
            The box with our {item} vanished between your depot and {place}.
            You [cannot|can't] find my {item}, and you say it is lost.
            The parcel with my {item} was last seen before {place}, now it is [lost|gone].
            My {item} has been lost since {date}, when it was due.
            Your driver lost the {item} [on the road|somewhere] before {place}.
            Lost parcel: {item}.
            Nobody knows where the {item} went; [your people|they] call it lost.
        """),
        "damaged goods": _lines("""
            [My|Our|The] {item} arrived [broken|damaged|in pieces].
            The {item} was [cracked|badly scratched|broken] when we unpacked it.
            On {date} you delivered the {item} with [a big crack|a broken corner].
            The {item} that came to {place} on {date} is [damaged|broken].
            You delivered [my|our|a] {item} [in pieces|with deep scratches] to {place}.
            Damaged on arrival: {item}, {place}, {date}.
            Broken goods: {item}. Delivered {date}.
            Transport damage. Item: {item}. Place: {place}.
            Your driver dropped the {item} [at our door|while unloading], and it broke.
            When the box was opened in {place}, the {item} was [smashed|bent and cracked].
            I received the {item} on {date}, but it was [broken|damaged] inside the box.
            The box looked fine, but the {item} in it was [smashed|cracked].
            Bad packing has ruined our {item}, delivered on {date}.
            What you brought on {date} was {a_item} with [two broken parts|a hole in it].
            I want to report transport damage to [my|our] {item}.
            The {item} came on {date} and one side was [crushed|dented].
            {date}: the {item} is delivered to {place}, but it is broken.
            Your men handled the {item} so roughly in {place} that it [broke|cracked].
            The goods came damaged: [my|our] {item} has a [crack|dent].
            In {place} we unpacked the {item} and found it [damaged|broken].
            The {item} from shipment {ref} came damaged.
            Delivery {ref} brought us {a_item} that was cracked on all sides.
            [My|Our] {item} got scratched and dented during [transport|unloading].
            We cannot use the {item}: it [broke on the truck|was crushed on the way].
            The {item} was delivered in {place} with broken edges.
            How can {a_item} reach {place} in such a broken state?
            Scratches all over the {item} you delivered on {date}.
            Everything else was fine, but the {item} is broken.
            You brought [me|us] a [broken|damaged|cracked] {item}.
            The {item} has [a crack|two cracks|dents] from the transport.
            [Delivered broken|Broken on arrival]: {item}, {date}.
            On {date} the {item} arrived with [one leg|one side] broken off.
            The {item} fell from your truck in {place} and is [dented|in pieces].
            Careless transport: our {item} came to {place} [bent|scratched].
        """),
        "missing pallet": _lines("""
            [One|A] {item} is missing.
            [One|A] {item} was missing [from the delivery|from the truck|when we unloaded].
            On {date} the truck came to {place} without the {item}.
            We counted twice: the {item} [is not there|was not on the truck].
            The delivery of {date} was one {item} short.
            Missing: one {item}, {place}, {date}.
            Short delivery on {date}. Missing: {item}.
            Your driver unloaded [five|seven] pallets in {place}, but not the {item}.
            [Three|Nine] pallets came, only the {item} did not.
            The list says one {item}, but [none was on the truck|we got none].
            We signed for all pallets on {date}, but one {item} is missing.
            In {place} one {item} was not unloaded with the rest.
            I have to report a missing {item} at our [warehouse|site] in {place}.
            All the other pallets reached {place}; the {item} did not.
            The {item} was on the papers of {date}, but not on the truck.
            Where is our {item}? The other pallets are all here.
            Your truck brought everything on {date} except one {item}.
            Our [warehouse|yard] in {place} did not get the {item} with the other pallets.
            From the load of {date} we miss one {item}.
            Shipment {ref} is incomplete: one {item} is missing.
            With {ref} there should be {a_item}, but it was not in the load.
            We are one {item} short.
            [Four|Six] of [seven|eight] pallets arrived in {place}, and the {item} is the gap.
            The count in {place} shows that one {item} is missing.
            One pallet too few on {date}: the {item} was left out.
            Somebody forgot to load our {item}; the rest of the load is here.
            The load for {place} lacks the {item}.
            {date}, {place}: truck unloaded, one {item} missing.
            The {item} [was not delivered|did not come] with the other pallets.
            We got [two|ten] pallets on {date}, but the {item} was not among them.
            Pallet missing: {item}, {place}.
            The {item} is missing from the load [of {date}|for {place}].
            The driver had no {item} for us, only the other pallets.
            On {date} you forgot one {item} when you unloaded in {place}.
        """),
        "wrong delivery": _lines("""
            [My|Our|The] {item} went to the wrong [address|house|street].
            The {item} was given to [a stranger|the wrong person|the wrong firm].
            On {date} you left the {item} at the wrong [house|door] in {place}.
            You delivered {a_item} to us in {place} that we never ordered.
            On {date} I got {a_item} that is not mine.
            [I|We] received {a_item} that belongs to somebody else.
            The {item} you brought on {date} was meant for another customer.
            Wrong delivery: {item}, {place}, {date}.
            Wrong address. Item: {item}. Delivered {date}.
            Not my order: {item}, delivered in {place}.
            Your driver gave my {item} to [strangers|some other family] in {place}.
            Your driver mixed up two parcels, and we got {a_item} by mistake.
            There is {a_item} here in {place} that I did not order.
            You swapped the labels: {a_item} came to me on {date}, though it is for someone else.
            On {date} the {item} was handed to the wrong [company|shop] in {place}.
            My {item} ended up with a family I do not know in {place}.
            A shop in {place} called me: my {item} was delivered to them [by mistake|instead of me].
            I opened the box on {date} and found {a_item}, which I never ordered.
            Please pick up the {item}, it was sent to us by mistake.
            What should I do with {a_item}? I did not order it.
            Somebody else's {item} was left at my door on {date}.
            The {item} under {ref} went to a wrong address.
            For {ref} you brought {a_item}, which is not what I ordered.
            I ordered something quite different, but {a_item} came to {place}.
            You took the {item} to the wrong street in {place} on {date}.
            The wrong parcel came on {date}: {a_item} for another person.
            The {item} is not for us, you brought it to the wrong house.
            It was {date} when you left the {item} with the wrong people in {place}.
            You sent me the wrong parcel: {a_item} [instead of my order|that is not mine].
            My {item} was delivered to [a neighbour I don't know|the wrong floor|the wrong desk] by mistake.
            Wrong parcel: {item}, {date}.
            The {item} is somebody else's, but you left it [here in {place}|with me on {date}].
            By mistake you brought the {item} to [us|our office] in {place}.
            I never ordered {a_item}, yet it came on {date}.
        """),
        "car damage": _lines("""
            [Somebody|Someone|A van|A truck] [hit|dented|scratched] my {item}.
            My {item} was hit by [a van|a bus|another car].
            On {date} a [truck|taxi] ran into my {item}.
            I had [an accident|a crash] with my {item} in {place}.
            My {item} got a [dent|long scratch] in a car park in {place}.
            On {date} I drove my {item} into [a wall|a post|a gate] in {place}.
            [A tree|A branch|A sign] fell on my {item} on {date}.
            Somebody drove into my parked {item} on {date}.
            Accident with {item}, {place}, {date}.
            Car damage: {item}. Date: {date}.
            Dented car: {item}, {place}.
            The door of my {item} is dented since {date}.
            Hail [damaged|dented] the roof of my {item} in {place}.
            The bumper of our {item} was torn off in {place} on {date}.
            A [cyclist|stranger] broke the mirror of my {item} in {place}.
            I report damage to my {item}: [the bonnet|the left door|the bumper] is bent.
            While parking in {place} I scraped my {item} along a [wall|fence].
            It was {date} when a [motorbike|lorry] crashed into our {item}.
            My wife had a crash in our {item} on {date}.
            My {item} skidded on ice in {place} and hit a [tree|fence].
            The front of my {item} is [smashed|dented] after a crash on {date}.
            I backed my {item} into a [lamp post|wall].
            Please cover the repair of my {item}, hit in {place} on {date}.
            Policy {ref} covers my {item}, which was hit by a [van|car].
            A stone cracked the windscreen of my {item} on {date}.
            In {place} a lorry touched my {item} and [bent|scratched] the wing.
            On the road near {place} a deer ran into my {item}.
            Another driver bumped into my {item} at a red light in {place}.
            A [bus|cyclist|tractor] [scraped|bumped] my {item} in {place}.
            Crash with my {item} on {date}.
            The [rear|side|front] of my {item} was [damaged|dented] on {date}.
            My {item} has a [broken light|dented door] after somebody hit it in {place}.
            Two cars crashed in {place}, one was our {item}.
            On {date} I hit a kerb with my {item} and bent the wheel.
        """),
        "water damage": _lines("""
            A [burst|leaking] pipe [ruined|soaked|damaged] [my|our] {item}.
            Water [ruined|damaged] [my|our|the] {item}.
            On {date} water came in and [soaked|ruined] the {item}.
            The [washing machine|boiler|tap] leaked on {date} and our {item} is [soaked|ruined].
            Our flat in {place} was flooded, and the {item} is [soaked|ruined|swollen].
            After a burst pipe on {date} the {item} is [wet|ruined].
            Water damage: {item}, {place}, {date}.
            Pipe burst {date}. Damaged: {item}.
            Leak in {place}. Affected: {item}.
            Rain came through the roof in {place} and soaked the {item}.
            The flat above mine in {place} leaked, and water ran over the {item}.
            I found the {item} under water on {date}.
            A pipe in our house in {place} broke and [flooded|soaked] the {item}.
            The upstairs neighbour's bath ran over on {date} and soaked our {item}.
            I report water damage to the {item} [in our house|in my flat] in {place}.
            Since the flood of {date} the {item} is full of [water|stains].
            [The cellar|The kitchen] stood under water on {date}; the {item} cannot be saved.
            Our {item} is wet through, because a [hose|pipe] broke.
            The {item} got soaked when the heating leaked in {place}.
            It was {date} when the [tank|pipe] burst and the {item} got wet.
            Heavy rain flooded our [house|shop] in {place}; the {item} is ruined.
            There are water stains on the {item} after a leak on {date}.
            {date}, {place}: pipe broken, {item} soaked.
            Policy {ref} covers our {item}, which a leak has soaked.
            The storm let water in at our place in {place}, right onto the {item}.
            My {item} swelled up after the dishwasher leaked.
            Dirty water rose in {place} and reached the {item}.
            The leak in the bathroom destroyed our {item}.
            The {item} is [soaked|ruined] because [a pipe burst|the roof leaked].
            Water [dripped|ran] onto our {item} on {date}.
            A [blocked drain|broken tap] flooded our rooms in {place} and the {item} got [soaked|wet].
            Burst pipe in {place}, {item} ruined.
            On {date} the bathroom flooded and the water [reached|ruined] the {item}.
            My {item} [took|suffered] water damage [on {date}|in {place}].
        """),
        "theft": _lines("""
            [Somebody|Someone|A thief] stole my {item}.
            My {item} [was|has been|got] stolen.
            My {item} was stolen in {place}.
            On {date} my {item} was stolen [in {place}|from my garage|from our shed].
            [Thieves|Burglars] broke in on {date} and took [my|our|the] {item}.
            [Thieves|Burglars] took [my|our] {item} from our house in {place}.
            Stolen: {item}, {place}, {date}.
            Theft on {date}. Taken: {item}.
            Theft in {place}. Item: {item}.
            I report the theft of my {item} [in {place}|on {date}].
            Somebody broke the lock in {place} and took my {item}.
            On {date} I came home and my {item} was gone; the door had been forced.
            My {item} was taken out of my [car|cellar] by a thief on {date}.
            In {place} a man grabbed my {item} and ran [away|off].
            We had burglars on {date}, and they took the {item}.
            The lock was cut on {date} and the {item} was [gone|taken].
            The police in {place} wrote down the theft of my {item}.
            Someone robbed me in {place} and took my {item}.
            It was {date} when a thief took our {item}.
            Our {item} was stolen overnight from the [yard|garden] in {place}.
            I was robbed on {date}: my {item} is gone.
            A burglar left with my {item} while we slept.
            {date}, {place}: break-in, {item} taken.
            Under policy {ref} I report a stolen {item}.
            My {item} was stolen from [a train|the bus|a cafe] near {place}.
            They smashed a window in {place} and stole the {item}.
            Who steals {a_item} in the middle of {place}?
            While I was away in {place}, somebody stole the {item} from my room.
            My {item} was stolen [last night|at work], on {date}.
            [A thief|A burglar|Some thief] has my {item}.
            Break-in on {date}: my {item} was taken.
            Our [garage|office|house] in {place} was broken into and the {item} was stolen.
            [Two men|A man] stole the {item} [from me|right in front of me] in {place}.
            I had my {item} stolen on {date}.
        """),
    },
    openers={
        "all": _lines("""
            This is {name} [writing|] about {ref}.
            My name is {name}[, reference {ref}|].
            {name} here[, number {ref}|, ref {ref}|].
            I am {name}[ and my reference is {ref}|].
            I'm {name}[ from {place}|, ref {ref}|].
            I write [about|regarding] {ref}.
            Ref {ref}[, {name}|, incident of {date}|, {place}|].
            Reference: {ref}[, {name}|].
            Reference number {ref}.
            Re: {ref}[, {place}|, incident of {date}|].
            From {name}, {place}.
            From {name}[, ref {ref}|].
            Name: {name}[. Ref: {ref}|. Reference {ref}|. Place: {place}|].
            {ref}, {place}, incident of {date}.
            {name}, {ref}, {place}.
            {ref}, {name}, {place}.
            File {ref}[, {name}|].
            My file is {ref}.
            Case {ref}[, {name}|].
            Number {ref}, {name}.
            Place: {place}. Date of incident: {date}.
            Incident of {date} in {place}.
            Incident on {date}, ref {ref}.
            Where and when: {place}, {date}.
            My number with you is {ref}.
            I, {name}, write to complain.
            {name} is my name, {ref} is my reference.
            You know me as {name}.
            It's {name}[ with reference {ref}|, file {ref}|].
            Please look at {ref}[ for {name}|].
            Please open file {ref}.
            I have a complaint about {ref}.
            Message from {name}[ about {ref}|].
            Sender: {name}[. Number: {ref}|].
            [Good evening|Good afternoon], {name} here.
            {name} [speaking|writing|again].
            {name} [writes|is writing] to you [about {ref}|from {place}].
            You are reading a message from {name}.
            My name? {name}.
            [Customer|Client]: {name}[, {ref}|].
            [Customer|Client] {name}[, ref {ref}|, {place}|].
            I am called {name}.
            I am your customer {name}[ from {place}|].
            I am {name} from {place}.
            This is {name} from {place}[, ref {ref}|].
            This is a message from {name}.
            For your file {ref}: my name is {name}.
            [Short|Quick] note from {name}[, {ref}|].
            [Complaint|Report|Notice] by {name}[, {place}|].
            Name and number: {name}, {ref}.
            {name} of {place}[ here|].
            Please help me, I am {name}.
            I [refer|come back] to {ref}.
            [With regard|In regard] to {ref}[, {name}|].
            My reference number [is|reads] {ref}[, my name {name}|].
            [Our|My] ref: {ref}.
            {ref} is [my|our] [number|file] with you.
            Here is a message on {ref}[ from {name}|].
            Once more about {ref}.
            [Your|My] file number is {ref}.
            On {date} in {place}, something bad happened.
            What follows happened on {date}[ in {place}|].
            Report for {date}[, {place}|].
            This concerns {date}[ and {place}|].
            I will tell you about {date}[, ref {ref}|].
        """),
        "shipment": _lines("""
            Shipment {ref}[, {place}|, {name}|].
            Shipment number {ref}[, {name}|].
            [Order|Parcel|Delivery] {ref}[, {place}|].
            Tracking number {ref}.
            Tracking {ref}, {name}.
            It is about [shipment|delivery|order] {ref}.
            Regarding your delivery {ref}[ to {place}|].
            I am writing about [shipment|order] {ref}.
            [Complaint|Question] about shipment {ref}.
            Consignment {ref}, {place}.
            The delivery note says {ref}.
            I am the customer for shipment {ref}, {name}.
            Shipment {ref} was for {name} in {place}.
            [My|Our] order number is {ref}[, name {name}|].
            [Parcel|Package] number {ref}.
            Consignment [number|note] {ref}[, {name}|].
            You carry my shipment {ref}[ to {place}|].
            I track [shipment|parcel] {ref} with you.
        """),
        "policy": _lines("""
            Policy {ref}[, {name}|, loss of {date}|].
            Policy number {ref}[, {name}|].
            [Claim|Contract] {ref}[, {place}|].
            Policy: {ref}. Name: {name}.
            I am insured with you under {ref}.
            I want to make a claim on policy {ref}.
            Regarding my [policy|insurance] {ref}.
            My policy is {ref}.
            A new claim for policy {ref}.
            Holder of policy {ref}: {name}.
            I have policy {ref} with you, my name is {name}.
            Insurance no. {ref}, {place}.
            Claim under {ref} for {date}.
            [Policy|Contract] no. {ref}[, {name}|, {place}|].
            [Claim|Damage] report for policy {ref}.
            My insurance number is {ref}[, my name is {name}|].
            I pay you for policy {ref}[ and need help|].
            Insured as {name}[, policy {ref}|].
        """),
    },
    details={
        "all": _lines("""
            My reference is {ref}.
            The reference is {ref}.
            The number is {ref}.
            Your reference [is|was] {ref}.
            You find [me|it] under {ref}.
            It runs under {ref}.
            [Please quote|Quote] {ref}.
            My papers say {ref}.
            (Ref {ref})
            Ref: {ref}.
            [File|Case] number {ref}.
            It is filed as {ref}.
            The number on my letter is {ref}.
            Look under {ref}.
            [Oh, and|By the way,] the number is {ref}.
            Place: {place}.
            That was in {place}.
            All this in {place}.
            City: {place}.
            Date: {date}.
            And my name is {name}.
            The name is {name}.
            Please answer to {name}.
            [Write|Reply] to {name}, please.
            The [file|case] is {ref}.
            My [number|ref] is {ref}.
            [Our|The] reference number is {ref}.
            [The number you need|What you need] is {ref}.
            [Keep|Note] the number {ref}.
            [Always|Please] give {ref} as reference.
            You wrote {ref} on my [letter|papers].
            This is {name}[, by the way|].
            [Sincerely yours|Yours] is {name}.
        """),
        "shipment": _lines("""
            The shipment number is {ref}.
            Shipment: {ref}.
            The tracking number [is|was] {ref}.
            The label says {ref}.
            It was sent as {ref}.
            [Order|Delivery] number {ref}.
            On the delivery note it says {ref}.
            You shipped it as {ref}.
            The parcel label reads {ref}.
            It travels under number {ref}.
            The address was in {place}.
            The recipient is {name}[ in {place}|].
            It was addressed to {name}.
            [Parcel|Package|Consignment]: {ref}.
            [Parcel|Package|Consignment] number: {ref}.
            The order number [is|was] {ref}.
            The sticker on the papers says {ref}.
        """),
        "policy": _lines("""
            My policy number is {ref}.
            Policy: {ref}.
            I am insured under {ref}.
            The policy is {ref}.
            My contract [is|has number] {ref}.
            [Insured|Covered] under {ref}.
            It is covered by policy {ref}.
            Please check policy {ref}.
            The insurance number is {ref}.
            I pay for policy {ref}.
            The policy is in the name of {name}.
            The insured person is {name}.
            [Contract|Insurance]: {ref}.
            My insurance [is|has the number] {ref}.
            [Policy|Contract] with number {ref}.
            We have policy {ref}.
        """),
        "due": _lines("""
            It was due on {date}.
            It was due in {place} on {date}.
            Due date: {date}.
            [Delivery|Arrival] was planned for {date}.
            You promised it for {date}.
            The agreed day was {date}.
            It should have come on {date}.
            It should have been here in {place} on {date}.
            {date} was the agreed [day|date].
            I expected it on {date}.
            We expected it in {place}.
            It was meant for {place}.
            The destination is {place}.
            It had to be in {place} by {date}.
            It was to go to {place}.
            Your plan said {date}.
            I live in {place}.
            We needed it on {date}, as agreed.
            The order said {date}, {place}.
            [The plan|The app] was {date}.
            It was [promised|announced|planned] for {date}.
            [Promised|Planned] day: {date}.
            It [was|had been] ordered to {place}.
            [Destination|Ship to]: {place}.
        """),
        "delivered": _lines("""
            It was delivered on {date}.
            The delivery was on {date}[ in {place}|].
            Delivery date: {date}.
            Your truck came on {date}.
            You delivered on {date}.
            That was on {date}[ in {place}|].
            The driver came to {place}[ on {date}|].
            This happened on {date}, when you delivered.
            {date} was the day of delivery.
            I noticed it on {date}, the day of delivery.
            Unloaded in {place}[ on {date}|].
            The delivery went to {place}.
            We are in {place}.
            It was delivered to {place}.
            Delivery address: {place}.
            Our door is in {place}.
            The truck reached us in {place} on {date}.
            The date on the delivery note is {date}.
            I signed for it on {date}.
            [Delivered|Unloaded] on {date}.
            The truck was here on {date}.
            [It|This] was [at the delivery|during the delivery] on {date}.
            [Delivered|Sent] to {place}.
            You came to our place in {place}.
        """),
        "event": _lines("""
            It happened on {date}.
            It happened in {place}[ on {date}|].
            This was on {date}.
            That was in {place} on {date}.
            The damage is from {date}.
            It was {date}.
            Date of the loss: {date}.
            The date was {date}.
            The day was {date}[, the place {place}|].
            I noticed it on {date}, the same day.
            It took place [in {place}|on {date}].
            {date} was the day.
            All this happened on {date}.
            The place was {place}.
            It was in {place}.
            Scene: {place}[, {date}|].
            Where: {place}. When: {date}.
            I was in {place} at the time.
            This happened to me in {place}.
            [Date of the damage|Day of the incident]: {date}.
            The incident [was|happened] on {date}.
            [Place|Scene] of the incident: {place}.
            The incident was in {place}.
            I was there in {place} on {date}.
        """),
    },
    amounts=_lines("""
        I claim {amount}.
        [I ask|We ask|I am asking] for {amount}.
        I want {amount} [back|from you].
        Please [pay|refund|transfer] {amount}.
        The damage is {amount}.
        The damage is [about|around|roughly] {amount}.
        [The loss|My loss|Our loss] is {amount}.
        My loss: {amount}.
        It was worth {amount}.
        It is worth [about|at least|some] {amount}.
        It cost [me|us] {amount}.
        It cost {amount} [new|last year].
        Value: {amount}.
        Value [about|around] {amount}.
        The value is {amount}.
        Claim: {amount}.
        Amount: {amount}.
        Amount claimed: {amount}.
        Total [loss|damage|claim]: {amount}.
        You owe [me|us] {amount}.
        I expect {amount} from you.
        We estimate the loss at {amount}.
        Your invoice was {amount}.
        I paid {amount} for it.
        We paid {amount}.
        [A|One] new one costs {amount}.
        That makes {amount}.
        That is {amount} for me.
        I put the loss at {amount}.
        My claim is for {amount}.
        I would like {amount}.
        {amount}, please.
        {amount} is what [I claim|it cost|I want].
        {amount} would be fair.
        The bill is {amount}.
        I lost {amount} [through this|because of you].
        The price was {amount}.
        Cost: [about|] {amount}.
        Costs of {amount}.
        We are [out of pocket by|down] {amount}.
        Send {amount} to my account.
        I demand {amount} [now|at once].
        All in all {amount}.
        The sum is {amount}.
        Replacing it costs {amount}.
        For this I claim [a sum of|] {amount}.
        It set me back {amount}.
        The expert says {amount}.
        Please cover the {amount}.
        The receipt shows {amount}.
        My shop asks {amount} for it.
        I need {amount} for this.
        Without {amount} from you I am not happy.
        Worth {amount}.
        [My|Our] claim: {amount}.
        [I think|We think] {amount} is [fair|right].
        I have to pay {amount} [myself|for this].
        The [garage|shop|dealer|repair man] wants {amount}.
        The [receipt|invoice|quote|estimate] is for {amount}.
        The [receipt|invoice|quote|estimate] says [about|] {amount}.
        According to the [receipt|invoice|quote], {amount}.
        [New|Used], it costs [about|] {amount}.
        [Repair|Replacement] costs [about|] {amount}.
        A repair would cost [about|nearly|] {amount}.
        [Compensation|Refund] of {amount}, please.
        I [request|demand] a refund of {amount}.
        I am [claiming|requesting] {amount}.
        We [claim|request|demand] {amount}.
        You [should|must] pay [me|us] {amount}.
        [Kindly|Please] [reimburse|pay out] {amount}.
        My [wife|husband|boss] says it is worth {amount}.
        I value it at [about|] {amount}.
        It has a value of {amount}.
        It was bought for {amount}[ in May|].
        Bought for {amount}.
        Estimated [loss|value|damage]: {amount}.
        [Loss|Damage] of [about|] {amount}.
        This [costs|cost] us {amount}.
        What I lost is worth {amount}.
        We have a loss of {amount}.
        So I claim {amount}[ from you|].
        [Therefore|So] please pay {amount}.
        [Money|Refund] due to me: {amount}.
        I reckon {amount}.
        Say {amount}.
        About {amount}, I guess.
        [Roughly|About|Around] {amount}.
        I want to be paid {amount}.
        I will not accept less than {amount}.
        My bank account waits for {amount}.
        [My costs|Our costs|The costs] are {amount}.
        [Pay|Refund] me {amount}.
        [I am|We are] owed {amount}.
        [It would cost|It will cost] {amount} to buy [it again|a new one].
        [The value of it|Its value|Its price] is {amount}.
        [The value|The price|The cost] was [about|around] {amount}.
        [Value|Price|Loss] in total: {amount}.
        A fair sum is {amount}.
        I [must|had to] spend {amount}.
        [Please send|Please pay back] the {amount}.
        I have a bill [of|for] {amount}.
        [In all|In total|Together] {amount}.
        [We would like|We expect] {amount}.
    """),
    no_amount=_lines("""
        I claim [no money|nothing] for now.
        I do not want money.
        I do not know the value.
        No value given.
        Value [unknown|not known yet|open].
        The costs are not known yet.
        I cannot say what it costs.
        The amount will follow.
        I only want you to know.
        I only want an answer.
        This is just for your files.
        No claim [yet|so far].
        Amount: none.
        I will send the bill later.
        I have no price for it.
        We are still waiting for a quote.
        Money is not the point.
        It is only a notice.
    """),
    greetings=_lines("""
        Hello,
        Hi,
        Hi there,
        Dear Sir or Madam,
        Dear team,
        Good morning,
        To whom it may concern,
        Dear all,
        Hey,
        Dear Sirs,
    """),
    signatures=_lines("""
        [Regards|Kind regards|Best regards], {name}
        [Yours|Yours sincerely|Yours faithfully], {name}
        Best, {name}
        [Thanks|Thank you|Many thanks], {name}
        {name}
        {name}, {place}
        {name}, ref {ref}
        Signed, {name}
        Signed: {name}
        Cheers, {name}
        Greetings, {name}
        With kind regards, {name}
        Name: {name}
        Sincerely, {name}
        Waiting for your reply, {name}
        Very angry, {name}
        Not amused, {name}
        [Thanks|Regards], {name}, {ref}
        [Thanks|Regards], {name} from {place}
        Your customer {name}
        Best wishes, {name}, {place}
        In haste, {name}
        - {name}
        Bye, {name}
        [All the best|Take care|See you], {name}
        Respectfully, {name}
        [Yours truly|Faithfully], {name}
        With [best|warm|many] regards, {name}
        [Hoping|Hope] to hear from you, {name}
        [Disappointed|Annoyed|Fed up|Furious], {name}
        [Sad|Friendly|Kind] greetings, {name}
        Thanks in advance, {name}
        Thanks for your [help|time|patience], {name}
        Looking forward to your answer, {name}
        The [undersigned|sender]: {name}
        Your [loyal|old|unhappy] customer, {name}
        {name} ({ref})
        {name} ({place})
        {name} / {ref}
        [Sent|Written] by {name}
        [Sent|Written] by {name} in {place}
        Until then, {name}
        Yours, {name}, ref {ref}
        Sorry and thanks, {name}
        [Br|Rgds|Thx], {name}
        [Goodbye|For now], {name}
        [Awaiting your answer|In hope of help], {name}
        [Still waiting|Out of patience], {name}
        [Regards|Best regards|Greetings] from {place}, {name}
    """),
    distractors=_lines("""
        I called on {other_date}[ and nobody answered|].
        I am writing this on {other_date}.
        Today is {other_date}.
        Please reply by {other_date}.
        Your letter of {other_date} did not help.
        I sent photos on {other_date}.
        A man from your office promised a call on {other_date}.
        I have been your customer since {early_date}.
        I will be away from {other_date}.
        I was on hold for [40|25|50] minutes.
        I called [three|4|6] times.
        Your [hotline|office] in {other_place} could not help.
        I asked your office in {other_place}.
        Our dog was very upset.
        The weather was [awful|nice], by the way.
        I am [72|68|81] years old and this is too much for me.
        My [brother|sister] says you are usually good.
        This is the [2nd|3rd] time.
        It ruined our whole week.
        I am really angry.
        This is unbelievable.
        What a mess.
        I have photos.
        Please hurry.
        I attach [2|3|4] photos.
        Please call me back.
        I hope you can help.
        Sorry for the long message.
        I still have the [receipt|papers].
        Mr Stern from your team knows about it.
        Can you help [me|us]?
        I am [so|very] disappointed.
    """),
    shipment_distractors=_lines("""
        I ordered it on {early_date}.
        I placed the order on {early_date}.
        It was packed on {early_date}.
        My neighbour at number [12|7|31] saw your van.
        Your driver was friendly, though.
        The driver waited [5|15] minutes.
        The sender is not to blame.
        I paid for [express|fast] delivery.
    """),
)

HELD_OUT = Phrases(
    incidents={
        "delayed parcel": _lines("""
            I am still sitting here without my {item}, which [ought to have come|was scheduled] on {date}.
            Your van turned up with the {item} [four|eleven] days after {date}, the day we had agreed.
            Another delay! The {item} for {place} is [once again|still] not here yet.
            Could you speed up the {item}? {place} has been waiting long enough.
            The {item} took its time: planned {date}, received [a fortnight|nine days] later.
            Slow as ever, you got the {item} to {place} a week behind plan.
            According to your app the {item} is [slowly|still] travelling towards {place}.
            It bothers me that the {item} is so late.
            For {date} you had announced {a_item}, and we received it with a long delay.
            Behind time: the {item} that {place} was expecting.
        """),
        "lost parcel": _lines("""
            Your staff [told me|wrote] that the {item} can no longer be found.
            No trace of the {item} that was to reach {place} on {date}.
            The {item} has gone astray for good, [your people say|says your driver].
            Apparently my {item} was mislaid for ever on its journey to {place}.
            My {item}, scheduled for {date}, went astray and you closed the search.
            What did you do with the {item}? It is lost and never got to {place}.
            Your depot mislaid our {item} and has stopped looking.
            Unfortunately the {item} has been lost by your firm.
            I gave you {a_item} to carry to {place}, and you lost it.
            The whole parcel with the {item} has dissolved into thin air, you tell us.
        """),
        "damaged goods": _lines("""
            Sadly the {item} reached us with [a split side|its top shattered].
            After unpacking the {item} on {date} we saw [deep dents|a long crack].
            Your handling in {place} has left the {item} in bits.
            What a state the {item} is in! Your lorry brought it on {date} all chipped.
            The carton was soft on one corner and the {item} inside had [snapped|shattered].
            On {date} the courier handed over {a_item} that had been knocked to bits.
            We have to reject the {item}, as it was chipped and bent on receipt in {place}.
            Something heavy must have stood on the {item}: it turned up squashed.
            The {item} did not survive the ride to {place}, it is shattered.
            Upon receipt in {place} on {date}, the {item} showed heavy transport damage.
        """),
        "missing pallet": _lines("""
            When your lorry had left {place}, we noticed that one {item} had not been handed over.
            We are lacking one {item} from the goods of {date}.
            The load of {date} was not complete, for one {item} stayed away.
            Please find out where the {item} is; everything else on the lorry was right.
            Our goods-in team in {place} ticked off each pallet but one: the {item}.
            Only part of the load was on board on {date}, there was no {item}.
            Could you send the {item} that your lorry failed to bring with the others?
            One {item} has not turned up, although the remaining pallets are in our hall.
            On {date} {place} received all pallets bar one, namely {a_item}.
            The papers list {a_item}, yet the lorry did not carry it.
        """),
        "wrong delivery": _lines("""
            A household I have never met now has my {item}, as your courier misread the address.
            The courier confused the house numbers in {place}, so the {item} landed somewhere else.
            Nobody here asked for the {item} that your courier dropped off on {date}.
            By error {a_item} landed on our desk in {place}.
            The {item} we were handed on {date} has another person's name on it.
            I am stuck with {a_item} that ought to have gone to another house in {place}.
            On {date} your courier confused us with others and left {a_item}.
            A mix-up: the {item} in our hall should be with its true buyer.
            You sent the {item} to the wrong recipient.
            The {item} was dropped at a place that is not ours, elsewhere in {place}.
        """),
        "car damage": _lines("""
            The {item} I drive was rammed by [a coach|a delivery van] in {place}.
            Unfortunately I reversed the {item} against a [bollard|pillar] on {date}.
            Coming back to the car park in {place}, I saw a huge scrape on my {item}.
            A trailer came loose on {date} and smashed the back of my {item}.
            Vandals scratched the paint of our {item} from front to back.
            The {item} now has a crumpled wing, after a collision in {place} on {date}.
            Roadworks in {place} flung gravel against my {item}, and the headlight broke.
            My {item} collided with a tram on {date}.
            Some fool swung his car door into my {item}.
            I slid into the ditch near {place} with the {item}, and the front is bent.
        """),
        "water damage": _lines("""
            Our radiator gave way on {date}, and the {item} was drenched.
            The {item} is mouldy since a drain overflowed in {place}.
            Because the roof let in rain on {date}, the {item} is dripping.
            We had a flood in {place}, which was the end of the {item}.
            A defective valve sprayed the {item} for hours.
            When I got up on {date}, the {item} stood in a puddle from the leaky sink.
            Firemen pumped out our rooms in {place}, but the {item} was already drenched.
            The {item} has warped: the pipework behind it dripped for days.
            The people upstairs let their tub overflow, and down it came on our {item}.
            A storm on {date} pushed the river into our home in {place} and over the {item}.
        """),
        "theft": _lines("""
            Some crook has made off with my {item}.
            Overnight on {date}, intruders emptied our hallway, and the {item} went with them.
            My {item} disappeared in {place}: the camera shows a man stealing it.
            A pickpocket in {place} got away with my {item}.
            I turned round for a second in {place} and a youth snatched my {item}.
            On {date} our garage was burgled; we lost the {item} to the crooks.
            The chain had been sawn through, and whoever did it has my {item} now.
            Please note a burglary in {place} on {date}, in which the {item} was carried off.
            The {item} was pinched from under my seat on {date}.
            Robbers forced me to hand over the {item} in {place}.
        """),
    },
    openers={
        "all": _lines("""
            You have a file {ref} on me, {name}.
            Allow me to introduce myself: {name}[, file no. {ref}|].
            Concerning {ref}.
            Subject: {ref}[, {name}|, {place}|].
            {name} is writing this[ from {place}|].
            With reference to {ref}[, {name} from {place}|].
            My name's {name}[ and I live in {place}|].
            I am contacting you over {ref}.
            Hope this finds the right desk: {ref}, {name}.
            Here is {name}[ with case {ref}|].
            The undersigned, {name}, informs you as follows.
            Incident report, {place}, {date}.
            About {ref} that you keep on file.
            Writing to you: {name}[, {place}|].
            As {name} I turn to you for help.
            [My concern|The topic] is {ref}.
        """),
        "shipment": _lines("""
            In the matter of consignment no. {ref}[, {name}|].
            Your waybill {ref}[ for {place}|] is a sad story.
            Freight {ref}[, consignee {name}|].
            A word about transport {ref}[ to {place}|].
            I booked transport {ref} with you.
            Transport order {ref}, booked by {name}.
        """),
        "policy": _lines("""
            Please register a loss for insurance {ref}.
            My cover with you is {ref}[, {name}|].
            Policyholder {name}, no. {ref}.
            Loss report for {ref}[, {name}|].
            I hold insurance {ref}[ as {name}|].
            Insured party: {name}[, {ref}|].
        """),
    },
    details={
        "all": _lines("""
            The file bears the number {ref}.
            My case has the number {ref}.
            For your search: {ref}.
            You gave it the number {ref}.
            Use {ref} to look it up.
            The code is {ref}.
            In case you need it: {ref}.
            {ref} is the number you want.
            Kindly mention {ref} in your reply.
            Town: {place}.
            Location: {place}[, on {date}|].
            When? {date}.
            It all went on in {place}.
            I go by the name of {name}.
            Ask for {name}.
            The one complaining is {name}.
            Kindly address your answer to {name}.
            [Look up|Retrieve] {ref} and you will see who I am.
            [Your records|The records] list it as {ref}.
        """),
        "shipment": _lines("""
            The waybill has the number {ref}.
            On the sticker I read {ref}.
            Freight number {ref}.
            You dispatched it under {ref}.
            Booked as {ref}.
            The goods were for {name}.
            The consignee is {name}[, {place}|].
            Our premises are in {place}.
            The [docket|bill of lading] reads {ref}.
        """),
        "policy": _lines("""
            My cover has the number {ref}.
            I am on your books as {ref}.
            Insured as [client|party] {ref}.
            The certificate shows {ref}.
            My premium goes to {ref}.
            The cover note says {ref}.
            The policyholder is {name}.
            I took out the cover as {name}.
        """),
        "due": _lines("""
            The scheduled day was {date}.
            Scheduled for {date}[ in {place}|].
            We had agreed on {date}.
            Your own schedule names {date}.
            By {date} it ought to have been in {place}.
            It was wanted in {place}[ for {date}|].
            Arrival had been set for {date}.
            {date} was the day you named.
            The address is a house in {place}.
            Its target was {place}.
            {place} is where it was headed.
            I had counted on {date}.
        """),
        "delivered": _lines("""
            Your lorry stopped here in {place}[ on {date}|].
            The handover was on {date}[ in {place}|].
            Received on {date}.
            Received in {place}.
            We took it in on {date}.
            I was handed the papers on {date}.
            You pulled up at our gate on {date}.
            Our gate is in {place}.
            {place} is where you unloaded.
            On {date} your crew was here.
            Goods receipt: {date}[, {place}|].
            The unloading took place on {date}.
        """),
        "event": _lines("""
            The incident dates from {date}.
            The whole thing occurred on {date}[ in {place}|].
            It occurred in {place}[ on {date}|].
            It befell me on {date}.
            {date} is when it occurred.
            {place} is where it occurred.
            I remember the day well, {date}.
            The scene was {place}.
            We were staying in {place} then.
            Day of the event: {date}.
            My home is in {place}, that is where.
            Time and town: {date}, {place}.
            [Mark the day|Note the day]: {date}.
        """),
    },
    amounts=_lines("""
        Kindly compensate me with {amount}.
        [My financial loss comes to|The harm comes to|It comes to] {amount}.
        I assess the loss at [close to|] {amount}.
        It would take {amount} to [replace|restore] it.
        The price tag was {amount}.
        Someone has to pay the {amount}.
        I had spent {amount} on it.
        We spent [over a year saving|years saving] the {amount} for it.
        [To put it in figures|In figures]: {amount}.
        Financially it means {amount}.
        I insist on {amount}.
        [A sum of|No less than] {amount} is what we are after.
        The bill came to {amount}.
        A specialist quoted {amount}.
        The workshop charges {amount}[ for it|].
        Let me have {amount}.
        It is a {amount} loss.
        Give me {amount} and we are even.
        I believe {amount} would settle it.
        {amount} should [do|settle the matter].
        Market value {amount}.
        Kindly wire {amount}.
        Purchase price {amount}.
        Sum [requested|wanted|involved]: {amount}.
        We hold you liable for {amount}.
        I am [missing|short of] {amount} now.
        We had it valued at {amount}.
        Sold new for {amount}.
        My demand is {amount}.
        We look to you for {amount}.
        How about {amount}?
        It was no bargain at {amount}.
        Reckon with [some|] {amount}.
        I hope to recover {amount}.
        To be compensated: {amount}.
        The financial side: [approx.|] {amount}.
        The figure [stands at|I have in mind is] {amount}.
        It leaves [a hole of|me poorer by] {amount}.
        [As compensation|As damages] I have {amount} in mind.
        [Its list price was|The till said] {amount}.
        [Roughly speaking|All told], it is {amount}.
        We would settle for {amount}.
    """),
    no_amount=_lines("""
        I am not after any money.
        The price escapes me.
        I cannot put a figure on it.
        The figure is still to be determined.
        I demand no compensation.
        An apology would be enough.
        Figures will be supplied another time.
        Nobody has worked out the cost so far.
    """),
    greetings=_lines("""
        Good day,
        Dear claims team,
        Dear customer service,
        Greetings,
        Hello everyone,
    """),
    signatures=_lines("""
        Warmly, {name}
        Cordially, {name}
        [Ever|Truly] yours, {name}
        Much obliged, {name}
        Yours in [anger|despair|hope], {name}
        [Grateful for|Expecting] a quick answer, {name}
        [Ciao|So long|Over to you], {name}
        So much from {name}
        That is all from {name}[ in {place}|]
        [Enough said|Not happy at all|Truly upset], {name}
        Typed by {name}
        [Obediently|Politely|Patiently] yours, {name}
        Respect and regards from {name}
        Have a nice [day|week], {name}
        Good luck, {name}
        Speak soon, {name}
        {name} [sends regards|says goodbye]
        [Sincere|Hearty] greetings from {name}
        Author: {name}
    """),
    distractors=_lines("""
        I rang you up on {other_date}[, in vain|].
        These lines were written on {other_date}.
        My lawyer expects your answer before {other_date}.
        You sent me a useless form on {other_date}.
        The photos went out on {other_date}.
        My contract with you began on {early_date}.
        A lady at your {other_place} branch was rude.
        My children cried for [30|45] minutes.
        I dialled your number [seven|5|8] times.
        We are both over [60|70].
        Mrs Frost from your staff is informed.
        I can hardly believe it.
        Pictures can be sent.
        I have never been so cross.
        Sort this out, will you?
        You used to be better.
        It has been a bad month anyway.
        Let me know what you need.
        A short reply would be kind.
        The cat is fine, at least.
    """),
    shipment_distractors=_lines("""
        I had bought it on {early_date}.
        It left the factory on {early_date}.
        The box had [2|4] labels.
        House number [14|9|23] is easy to find.
        The courier wore shorts.
    """),
)
