/* Which arguments the functions of this library take: `veneer.native.opened.INTERFACE` is the number that Python
 * expects. It grows whenever a function takes others, or does something else with them, so that a library from older
 * sources is refused and never called wrongly. */
int veneer_interface(void);
int veneer_interface(void) { return 15; }
